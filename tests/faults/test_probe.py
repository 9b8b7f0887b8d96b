"""`probe` against endpoints that lack something: what is measured, said, and returned; over real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mock_server import Content, DropHeaders, Fault, IgnoreRange, Match, MaxConnections, MockHub, Rule, Seeded, World
from mock_server.messages import Route

SIZE = 24 << 20
COMMAND = [sys.executable, "-m", "fetchverify", "probe"]


def a_world() -> World:
    world = World()
    files: dict[str, Content | bytes | str | Path | None] = {
        "model.safetensors": Seeded(size=SIZE, seed="probe"),
        "config.json": b"{}",
    }
    world.add("org/model", files)
    return world


def environment(hub: MockHub, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_demo", "HF_HOME": "/nonexistent", **more}


def probe(hub: MockHub, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Return exit code, the last line of JSON, and stderr."""
    command = [*COMMAND, "org/model", "--seconds", "0.5", "--json", *arguments]
    done = subprocess.run(command, env=environment(hub), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def rules(*faults: Fault, route: Route = "cdn") -> Sequence[Rule]:
    return [Rule(fault=fault, match=Match(route=route)) for fault in faults]


def test_a_full_hub_is_fit_and_the_token_stays_with_it() -> None:
    with MockHub(a_world()) as hub:
        code, found, err = probe(hub)
        assert 0 == code, err
        assert ("LineProbe", True, True, True, []) == tuple(
            found[name] for name in ("kind", "fit", "ranges", "if_range", "lacks")
        )
        assert [1, 4, 16] == [step["connections"] for step in found["throughputs"]]
        assert all(step["bytes_per_s"] > 0 and step["drops"] == 0 for step in found["throughputs"])
        assert 10 == len(found["round_trips_s"])
        assert ("model.safetensors", SIZE) == (found["path"], found["size"])
        assert found["quotas"]
        assert not [record for record in hub.ledger.requests() if record.origin == "cdn" and record.authorization]
    assert "hf_demo" not in json.dumps(found) + err


def test_people_get_lines_and_the_verdict_last() -> None:
    with MockHub(a_world()) as hub:
        command = [*COMMAND, "org/model", "--seconds", "0.5", "-q"]
        done = subprocess.run(command, env=environment(hub), capture_output=True, text=True, timeout=60, check=True)
    assert "" == done.stderr
    *lines, verdict = done.stdout.splitlines()
    assert verdict.startswith("fit for a long download: ")
    assert any(line.startswith("ranges ") and "honoured" in line for line in lines)


def test_a_server_that_ignores_ranges_is_not_fit() -> None:
    with MockHub(a_world(), rules=rules(IgnoreRange())) as hub:
        code, found, _ = probe(hub)
    assert (1, False, False, []) == (code, found["fit"], found["ranges"], found["throughputs"])


def test_a_mirror_that_drops_headers_is_told_from_a_full_hub() -> None:
    dropped = DropHeaders(names=("X-Linked-Size", "X-Repo-Commit"))
    with MockHub(a_world(), rules=rules(dropped, route="resolve")) as hub:
        code, found, _ = probe(hub)
    assert 0 == code
    assert ["the header `X-Repo-Commit`", "the header `X-Linked-Size`"] == found["lacks"]


def test_a_server_that_refuses_many_connections_is_met_with_fewer() -> None:
    with MockHub(a_world(), rules=rules(MaxConnections(limit=6))) as hub:
        code, found, _ = probe(hub)
    assert 0 == code
    assert [False, False, True] == [step["refused"] > 0 for step in found["throughputs"]]
    assert found["options"] in (["--connections 1"], ["--connections 4"])


def test_an_endpoint_that_nobody_answers_at_is_exit_4() -> None:
    with MockHub(a_world()) as hub:
        address = hub.endpoint
    done = subprocess.run(
        [*COMMAND, address], env=environment(hub), capture_output=True, text=True, timeout=60, check=False
    )
    assert 4 == done.returncode
    assert "no connection could be made" in done.stderr


def test_an_endpoint_without_the_usual_repo_says_to_name_another() -> None:
    with MockHub(a_world()) as hub:
        done = subprocess.run(
            [*COMMAND, hub.endpoint], env=environment(hub), capture_output=True, text=True, timeout=60, check=False
        )
    assert 3 == done.returncode
    assert "openai-community/gpt2" in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(signum: signal.Signals) -> None:
    with MockHub(a_world()) as hub:
        command = [*COMMAND, "org/model", "--seconds", "60"]
        process = subprocess.Popen(command, env=environment(hub), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert any("1 connection for" in line for line in process.stderr)
        time.sleep(0.2)
        process.send_signal(signum)
        process.communicate(timeout=30)
    assert 128 + signum == process.returncode
