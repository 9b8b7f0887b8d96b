"""SIGKILL in mid-download, then the same command: what the journal vouches for is not requested again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue
from tests.tally import Chance, Count

SIZE = 96 * MiB
BLOCK = 8 * MiB
FILES: dict[str, FileValue | None] = {"config.json": b"{}\n", "w.bin": Seeded(SIZE, seed="w")}


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        yield running


def start(hub: MockHub, cache: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fetchverify", "get", "org/model", "--endpoint", hub.endpoint]
    command += ["--cache-dir", str(cache), "--connections", "4", "--json", *more]
    env = os.environ | {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journalled(cache: Path) -> int:
    journals = list(cache.glob("models--org--model/.fetchverify/partial/*/journal"))
    return max(0, journals[0].stat().st_size - 96) // 32 if journals else 0


def wait_for_blocks(process: subprocess.Popen[str], cache: Path, blocks: int) -> None:
    until = time.monotonic() + 30
    while journalled(cache) < blocks:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("connections", [1, 4, 16])
def test_a_killed_download_goes_on_at_its_blocks(hub: MockHub, tmp_path: Path, connections: int, count: Count) -> None:
    """At most one unfinished block a connection is paid for twice, whatever the number of connections next time."""
    hub.fault(Trickle(rate=24 * MiB), path="w.bin")
    first = start(hub, tmp_path)
    wait_for_blocks(first, tmp_path, 4)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = journalled(tmp_path)
    hub.clear_faults()
    hub.ledger.clear()
    second = start(hub, tmp_path, "--connections", str(connections))
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert SIZE - kept * BLOCK == hub.ledger.bytes_sent("w.bin")
    assert SIZE - kept * BLOCK == next(o["fetched"] for o in report["outcomes"] if o["path"] == "w.bin")
    assert Seeded(SIZE, seed="w").read(0, SIZE) == (Path(report["target"]) / "w.bin").read_bytes()
    assert not list(tmp_path.glob("models--org--model/.fetchverify/partial/*"))
    count("kills survived")


def test_many_kills_at_random_moments_still_end_whole(
    hub: MockHub, tmp_path: Path, chance: Chance, count: Count
) -> None:
    """Whenever the process dies, readers see nothing or the whole file, and the sum of what is sent stays bounded."""
    rng = chance.rng
    hub.fault(Trickle(rate=64 * MiB), path="w.bin")
    content, kills, last = Seeded(SIZE, seed="w").read(0, SIZE), 0, None
    for _ in range(60):
        # Some die while they start; most get some blocks further, so that the end comes on a slow machine too.
        goal = journalled(tmp_path) + rng.choice([0, 1, 1, 2, 3])
        last = start(hub, tmp_path)
        while last.poll() is None and journalled(tmp_path) < goal:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3 if goal == 0 else 0.05))
        last.kill()
        last.communicate()
        kills += last.returncode != 0
        for published in tmp_path.glob("models--org--model/snapshots/*/w.bin"):
            assert content == published.read_bytes()
        refs = list(tmp_path.glob("models--org--model/refs/main"))
        assert not refs or list(tmp_path.glob("models--org--model/snapshots/*/w.bin"))
        if last.returncode == 0:
            break
    assert last is not None
    assert 0 == last.returncode
    assert kills
    count("kills survived", kills)
    assert hub.ledger.bytes_sent("w.bin") <= SIZE + kills * 4 * 2 * BLOCK


def test_sigterm_keeps_what_landed_and_says_so(hub: MockHub, tmp_path: Path) -> None:
    hub.fault(Trickle(rate=16 * MiB), path="w.bin")
    first = start(hub, tmp_path)
    wait_for_blocks(first, tmp_path, 2)
    began = time.monotonic()
    first.terminate()
    out, err = first.communicate(timeout=10)
    assert (143, True) == (first.returncode, time.monotonic() - began < 5), (out, err)
    assert journalled(tmp_path) >= 2
    last = json.loads(out.splitlines()[-1])
    assert ("Error", 143) == (last["kind"], last["exit_code"])


def test_a_power_cut_that_lost_blocks_costs_those_blocks(hub: MockHub, tmp_path: Path) -> None:
    """The journal may be ahead of the data: a block whose bytes are gone fails its hash and is fetched again."""
    hub.fault(Trickle(rate=24 * MiB), path="w.bin")
    first = start(hub, tmp_path)
    wait_for_blocks(first, tmp_path, 4)
    first.kill()
    first.communicate()
    kept = journalled(tmp_path)
    data = next(tmp_path.glob("models--org--model/.fetchverify/partial/*/data"))
    with data.open("r+b") as file:
        file.write(bytes(BLOCK))
    hub.clear_faults()
    hub.ledger.clear()
    second = start(hub, tmp_path)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert SIZE - (kept - 1) * BLOCK == hub.ledger.bytes_sent("w.bin")
