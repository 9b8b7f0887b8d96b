"""Two runs at one target: each byte is fetched once, waiting says for whom, and nobody waits for the dead."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from mock_server import MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue
from tests.shims import preload

BLOCK = 8 * MiB
FILES: dict[str, FileValue | None] = {
    "config.json": b"{}\n",
    "v.bin": Seeded(20 * MiB, seed="v"),
    "w.bin": Seeded(44 * MiB, seed="w"),
}
RATE = 12 * MiB


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        running.fault(Trickle(rate=RATE))
        yield running


@dataclass(slots=True)
class Ours:
    """A run of ours under way; what it says is gathered while it runs."""

    process: subprocess.Popen[str]
    said: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    _thread: threading.Thread = field(init=False)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind so far."""
        return [event for event in tuple(self.said) if event["kind"] == kind]

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something that happens while it runs."""
        until = time.monotonic() + 30
        while not done():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.005)

    def end(self) -> int:
        """Return the exit code."""
        code = self.process.wait(60)
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL


def start(hub: MockHub, cache: Path, *more: str, env: dict[str, str] | None = None) -> Ours:
    command = [sys.executable, "-m", "fetchverify", "get", "org/model", "--endpoint", hub.endpoint, "--json"]
    command += ["--cache-dir", str(cache), "--connections", "2", *more]
    environment = os.environ | {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0"} | (env or {})
    return Ours(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))


def assert_whole(hub: MockHub, cache: Path) -> None:
    commit = hub.world.repo("org/model").head()
    snapshot = cache / "models--org--model" / "snapshots" / commit.id
    expected = {path: file.content.sha256() for path, file in commit.files.items()}
    assert expected == {path: hashlib.sha256((snapshot / path).read_bytes()).hexdigest() for path in expected}
    assert [] == scan_cache_dir(cache).warnings
    assert commit.id == (cache / "models--org--model" / "refs" / "main").read_text()


def outcomes(one: Ours) -> dict[str, str]:
    return {outcome["path"]: outcome["kind"] for outcome in one.said[-1]["outcomes"]}


@pytest.mark.parametrize("locks", ["as they are", "always succeed"])
def test_of_two_runs_at_once_each_byte_is_fetched_by_one(hub: MockHub, tmp_path: Path, locks: str) -> None:
    """Also where `flock` excludes nobody: whose partial it is does not hang on locks."""
    env = {} if locks == "as they are" else {**preload("flock"), "FAKE_FLOCK": "always"}
    first, second = (start(hub, tmp_path, env=env) for _ in range(2))
    assert (0, 0) == (first.end(), second.end())
    assert (20 * MiB, 44 * MiB) == (hub.ledger.bytes_sent("v.bin"), hub.ledger.bytes_sent("w.bin"))
    assert 64 * MiB <= sum(one.said[-1]["bytes_fetched"] for one in (first, second)) <= 64 * MiB + 2 * 3
    waits = {one.process.pid: one.of("Waiting") for one in (first, second)}
    pids = list(waits)
    for pid, events in waits.items():
        other = pids[pids[0] == pid]
        assert all(f"process {other} (" in event["what"] for event in events), events
        assert all(event["wait_s"] is None for event in events)
    assert max(event["waited_s"] for events in waits.values() for event in events) >= 1
    assert_whole(hub, tmp_path)


def test_three_runs_with_other_options_end_whole(hub: MockHub, tmp_path: Path) -> None:
    """Another revision and another folder of the same cache; no deadlock between their locks."""
    hub.world.repo("org/model").commit({"README.md": b"# other\n"}, branch="other")
    runs = [start(hub, tmp_path), start(hub, tmp_path, "-r", "other"), start(hub, tmp_path, "--connections", "8")]
    assert [0, 0, 0] == [one.end() for one in runs]
    assert (20 * MiB, 44 * MiB) == (hub.ledger.bytes_sent("v.bin"), hub.ledger.bytes_sent("w.bin"))
    assert_whole(hub, tmp_path)


def test_lock_timeout_ends_the_wait_and_names_who_is_waited_for(hub: MockHub, tmp_path: Path) -> None:
    hub.clear_faults()
    hub.fault(Trickle(rate=2 * MiB))
    first = start(hub, tmp_path)
    first.until(lambda: bool(first.of("FileStarted")))
    second = start(hub, tmp_path, "--lock-timeout", "0.5")
    assert 6 == second.end()
    error = second.said[-1]
    assert ("Error", 6) == (error["kind"], error["exit_code"])
    assert f"process {first.process.pid} (" in error["message"]
    assert "w.bin" in error["message"] or "v.bin" in error["message"]
    assert f"kill {first.process.pid}" in error["hint"]
    first.kill()


def test_who_waits_goes_on_where_the_other_died(hub: MockHub, tmp_path: Path) -> None:
    first = start(hub, tmp_path)
    first.until(lambda: hub.ledger.bytes_sent("w.bin") > 2 * BLOCK + MiB)
    second = start(hub, tmp_path)
    second.until(lambda: bool(second.of("Waiting")))
    first.kill()
    assert 0 == second.end()
    # At most an unfinished block a connection came twice; the others are taken over from the dead.
    assert hub.ledger.bytes_sent("w.bin") <= 44 * MiB + 2 * BLOCK
    assert_whole(hub, tmp_path)


def test_a_run_after_the_others_plan_does_not_fetch_what_it_published(hub: MockHub, tmp_path: Path) -> None:
    """Between a plan and its last file lie hours, in which another run may have done the work."""
    hub.clear_faults()
    hub.world.repo("org/model").commit({f"a{n}.bin": Seeded(9 * MiB, seed=f"a{n}") for n in range(4)}, branch="more")
    first = start(hub, tmp_path, "-r", "more", "--limit-rate", "12M")
    first.until(lambda: bool(first.of("FileStarted")))
    second = start(hub, tmp_path, "w.bin", "v.bin")
    assert (0, 0) == (second.end(), first.end())
    assert (20 * MiB, 44 * MiB) == (hub.ledger.bytes_sent("v.bin"), hub.ledger.bytes_sent("w.bin"))
    for path in ("w.bin", "v.bin"):
        assert {"fetched", "linked"} == {outcomes(one)[path] for one in (first, second)}


def test_forcing_fetches_what_is_there(hub: MockHub, tmp_path: Path) -> None:
    """`--force-download` is for those who trust nothing that lies on disk."""
    hub.clear_faults()
    for _ in range(2):
        one = start(hub, tmp_path, "--force-download")
        assert 0 == one.end()
    assert 2 * 44 * MiB == hub.ledger.bytes_sent("w.bin")


# --- the dead -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locks", ["as they are", "always succeed", "absent"])
def test_nobody_waits_for_the_dead(hub: MockHub, tmp_path: Path, locks: str) -> None:
    """Lock files, owner's records and soft locks of a process that was killed; wherever locks stand."""
    env = {
        "as they are": {},
        "always succeed": {**preload("flock"), "FAKE_FLOCK": "always"} if locks == "always succeed" else {},
        "absent": {**preload("flock"), "FAKE_FLOCK": "never"} if locks == "absent" else {},
    }[locks]
    first = start(hub, tmp_path, env=env)
    first.until(lambda: hub.ledger.bytes_sent("w.bin") > 2 * BLOCK + MiB)
    # As though it had died while it published.
    locked = tmp_path / ".locks" / "models--org--model" / f"{hub.world.repo('org/model').file('w.bin').etag()}.lock"
    locked.parent.mkdir(parents=True, exist_ok=True)
    first.kill()
    if locks == "absent":
        locked.write_text(f"{first.process.pid}\n{os.uname().nodename}\n")
    else:
        locked.touch()
    second = start(hub, tmp_path, "--lock-timeout", "5", env=env)
    assert 0 == second.end(), second.said[-1]
    assert [] == [event for event in second.of("Waiting") if event["waited_s"] > 3]
    assert hub.ledger.bytes_sent("w.bin") <= 44 * MiB + 2 * BLOCK
    assert_whole(hub, tmp_path)
