"""Ours and the real `hf download` at one cache at once: both end, both right, and each waits for the other's locks."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from mock_server import Flip, MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue
from tests.shims import preload

FILES: dict[str, FileValue | None] = {
    "config.json": b"{}\n",
    "v.bin": Seeded(12 * MiB, seed="v"),
    "w.bin": Seeded(24 * MiB, seed="w"),
}


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        running.fault(Trickle(rate=16 * MiB))
        yield running


class Rival:
    """One of the two clients under way."""

    def __init__(self, hub: MockHub, home: Path, command: list[str], env: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        self._env = kept | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **env,
        }
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=self._env, stdout=pipe, stderr=pipe, text=True)

    def end(self) -> str:
        """Return what it said on stderr, once it came through."""
        out, err = self.process.communicate(timeout=90)
        assert self.process.returncode == 0, out + err
        return err

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def theirs(hub: MockHub, home: Path, env: dict[str, str] | None = None, *more: str) -> Rival:
    return Rival(hub, home, [str(Path(sys.executable).parent / "hf"), "download", "org/model", *more], env or {})


def ours(hub: MockHub, home: Path, env: dict[str, str] | None = None, *more: str) -> Rival:
    return Rival(hub, home, [sys.executable, "-m", "fetchverify", "get", "org/model", *more], env or {})


def until_sent(hub: MockHub, size: int, agent: str) -> None:
    """Wait until a client whose user agent says so was sent so many bytes."""
    until = time.monotonic() + 30
    while True:
        sent = [r for r in hub.ledger.requests(method="GET") if r.file == "w.bin" and agent in (r.user_agent or "")]
        if sum(record.bytes_sent for record in sent) >= size:
            return
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_whole(hub: MockHub, home: Path) -> None:
    commit = hub.world.repo("org/model").head()
    root = home / "hub" / "models--org--model"
    expected = {path: file.content.sha256() for path, file in commit.files.items()}
    snapshot = root / "snapshots" / commit.id
    assert expected == {path: hashlib.sha256((snapshot / path).read_bytes()).hexdigest() for path in expected}
    # A killed client of the hub leaves `ETAG.*.incomplete`.
    blobs = {path.name for path in (root / "blobs").iterdir() if path.suffix != ".incomplete"}
    assert {file.etag() for file in commit.files.values()} == blobs
    assert [] == scan_cache_dir(home / "hub").warnings
    assert commit.id == (root / "refs" / "main").read_text()


@pytest.mark.parametrize("locks", ["as they are", "always succeed"])
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_both_at_once_end_with_the_right_files(hub: MockHub, tmp_path: Path, first: str, locks: str) -> None:
    """Whoever comes first, and also where `flock` excludes nobody."""
    env = {} if locks == "as they are" else {**preload("flock"), "FAKE_FLOCK": "always"}
    clients = [theirs, ours] if first == "theirs" else [ours, theirs]
    rivals = [client(hub, tmp_path, env) for client in clients]
    for rival in rivals:
        rival.end()
    assert_whole(hub, tmp_path)


def test_ours_says_that_it_waits_for_theirs(hub: MockHub, tmp_path: Path) -> None:
    """The hub's client holds a blob's lock for its whole download; who waits should know which process to look at."""
    hub.clear_faults()
    hub.fault(Trickle(rate=6 * MiB))
    rival = theirs(hub, tmp_path)
    until_sent(hub, 2 * MiB, "hf_hub")
    hub.clear_faults()
    err = ours(hub, tmp_path, None, "--progress", "never").end()
    assert f"waiting for process {rival.process.pid} (" in err
    rival.end()
    assert_whole(hub, tmp_path)


def test_ours_gives_up_after_the_lock_timeout(hub: MockHub, tmp_path: Path) -> None:
    hub.clear_faults()
    hub.fault(Trickle(rate=MiB))
    rival = theirs(hub, tmp_path)
    until_sent(hub, MiB, "hf_hub")
    hub.clear_faults()
    second = ours(hub, tmp_path, None, "--lock-timeout", "0.5")
    _, err = second.process.communicate(timeout=60)
    assert 6 == second.process.returncode, err
    assert f"process {rival.process.pid} (" in err.splitlines()[-2]
    rival.kill()
    # What was fetched and proved meanwhile is not fetched again.
    hub.ledger.clear()
    ours(hub, tmp_path).end()
    assert 0 == hub.ledger.bytes_sent("w.bin")
    assert_whole(hub, tmp_path)


@pytest.mark.parametrize("dies", ["theirs", "ours"])
def test_who_is_left_goes_on_at_once(hub: MockHub, tmp_path: Path, dies: str) -> None:
    """A killed process leaves its lock files, and an orphan of the hub's, but no lock."""
    one, other = (theirs, ours) if dies == "theirs" else (ours, theirs)
    first = one(hub, tmp_path)
    until_sent(hub, 2 * MiB, "hf_hub" if dies == "theirs" else "fetchverify")
    second = other(hub, tmp_path)
    time.sleep(0.5)
    first.kill()
    second.end()
    assert_whole(hub, tmp_path)


def test_bad_bytes_that_theirs_published_are_not_ours_to_trust(hub: MockHub, tmp_path: Path) -> None:
    """It checks the size alone: of what it wrote while we ran, nothing is proved."""
    hub.fault(Flip(offset=9 * MiB), path="w.bin", nth=1)
    theirs(hub, tmp_path).end()
    ours(hub, tmp_path).end()
    assert_whole(hub, tmp_path)
