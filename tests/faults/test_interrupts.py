"""Signals and readers that go away, on real downloads: what is kept is said, and the next run pays for the rest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import Delay, MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue

BLOCK = 8 * MiB
SIZE = 40 * MiB
FILES: dict[str, FileValue | None] = {"config.json": b"{}\n", "w.bin": Seeded(SIZE, seed="w")}
SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        running.fault(Trickle(rate=12 * MiB), path="w.bin")
        yield running


def command(hub: MockHub, tmp_path: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "fetchverify", "get", "org/model", "--endpoint", hub.endpoint]
    return [*words, "--cache-dir", str(tmp_path), "--connections", "2", *more]


ENV = os.environ | {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}


def start(hub: MockHub, tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(hub, tmp_path, *more), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until_sent(hub: MockHub, process: subprocess.Popen[str], size: int) -> None:
    until = time.monotonic() + 30
    while hub.ledger.bytes_sent("w.bin") < size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def goes_on(hub: MockHub, tmp_path: Path) -> int:
    """Run the same command again and return how many bytes of the large file it took."""
    hub.clear_faults()
    hub.ledger.clear()
    again = start(hub, tmp_path)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert Seeded(SIZE, seed="w").read(0, SIZE) == (Path(out.strip()) / "w.bin").read_bytes()
    return hub.ledger.bytes_sent("w.bin")


@pytest.mark.parametrize(("signum", "code", "name"), SIGNALS)
def test_a_signal_keeps_what_landed_and_says_how_to_go_on(
    hub: MockHub, tmp_path: Path, signum: int, code: int, name: str
) -> None:
    process = start(hub, tmp_path)
    until_sent(hub, process, 2 * BLOCK + 3 * MiB)
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert (code, "") == (process.returncode, out)
    assert "stopping, what arrived is kept; once more to quit at once\n" in err
    kept = re.search(rf"error: {name}: 1 of 2 files published, ([\d.]+) MB received; whole blocks are kept\n", err)
    assert kept, err
    assert 16 <= float(kept[1]) <= SIZE / 1e6
    assert err.endswith("hint: run the same command again to go on\n")
    assert "Traceback" not in err
    landed = SIZE - goes_on(hub, tmp_path)
    assert (0, True) == (landed % BLOCK, landed >= BLOCK)


@pytest.mark.parametrize(("signum", "code", "name"), SIGNALS)
def test_a_second_signal_quits_at_once_and_loses_no_block(
    hub: MockHub, tmp_path: Path, signum: int, code: int, name: str
) -> None:
    """Wherever the first one's clean-up is, or hangs."""
    process = start(hub, tmp_path)
    until_sent(hub, process, 2 * BLOCK + 3 * MiB)
    began = time.monotonic()
    process.send_signal(signum)
    assert process.stderr is not None
    while "stopping" not in (line := process.stderr.readline()):
        assert line, f"no word of {name}"
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err
    assert time.monotonic() - began < 15
    assert goes_on(hub, tmp_path) <= SIZE - BLOCK


@pytest.mark.parametrize("kind", ["api", "tree", "resolve", "cdn"])
def test_ctrl_c_at_any_stage_is_no_traceback(hub: MockHub, tmp_path: Path, kind: str) -> None:
    """While the run asks for the revision, the listing, the address, the bytes: on a Hub that does not answer."""
    hub.fault(Delay(seconds=14), route=kind)
    process = start(hub, tmp_path)
    until = time.monotonic() + 30
    while not any(record.kind == kind for record in hub.ledger.requests()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert ("Traceback" in err, process.returncode) == (False, 130)
    assert err.endswith("hint: run the same command again to go on\n")
    assert time.monotonic() - began < 13


def test_a_signal_while_it_waits_for_another_run_ends_the_wait(hub: MockHub, tmp_path: Path) -> None:
    first = start(hub, tmp_path)
    until_sent(hub, first, BLOCK)
    second = start(hub, tmp_path)
    assert second.stderr is not None
    while "waiting for" not in (line := second.stderr.readline()):
        assert line
    assert f"process {first.pid} (" in line
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=20)
    assert (130, True) == (second.returncode, "run the same command again" in err), err
    first.kill()
    first.communicate()


# --- readers that go away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--json"], ["--dry-run"], ["--dry-run", "--json"]], ids=" ".join)
def test_a_reader_that_leaves_costs_no_file(hub: MockHub, tmp_path: Path, more: list[str]) -> None:
    """`fetchverify get --json … | head -1`: the files matter more than their log."""
    hub.clear_faults()
    process = start(hub, tmp_path, *more)
    assert process.stdout is not None
    if more == ["--json"]:
        assert "Resolved" == json.loads(process.stdout.readline())["kind"]
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not re.search("Traceback|BrokenPipe|Exception ignored", err), err
    hub.ledger.clear()
    assert (SIZE if "--dry-run" in more else 0) == goes_on(hub, tmp_path)


@pytest.mark.parametrize("more", [[], ["--json"]], ids=" ".join)
def test_nobody_reads_the_errors(hub: MockHub, tmp_path: Path, more: list[str]) -> None:
    """`2>&1 | head`: progress that nobody sees is no reason to stop."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        command(hub, tmp_path, "--progress", "always", *more),
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=write,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert process.returncode == 0
    assert 0 == goes_on(hub, tmp_path)


def test_a_signal_with_nobody_listening_keeps_its_code(hub: MockHub, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(command(hub, tmp_path, "--json"), env=ENV, stdout=write, stderr=write, text=True)
    os.close(write)
    until_sent(hub, process, BLOCK)
    os.close(read)
    process.send_signal(signal.SIGTERM)
    assert 143 == process.wait(20)
