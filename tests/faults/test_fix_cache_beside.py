"""`fix-cache` while another process downloads into the same repo, or reads from it: both end well."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from fetchverify.commands.fix_cache import run
from fetchverify.commands.fixing import FixOptions
from fetchverify.core.findings import Kind
from fetchverify.core.fixed import FixReport
from fetchverify.core.purge import PurgeOptions
from fetchverify.events import ignore
from mock_server import MiB, MockHub
from mock_server.faults import Trickle
from tests.cli.test_cli_real import environment
from tests.damage import REPO, WEIGHTS, Cached, a_world
from tests.hubcli import listed, verified

pytestmark = [pytest.mark.anyio, pytest.mark.leaves_damage]

HUB = "from huggingface_hub.cli.hf import main; main()"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def hub() -> Iterator[MockHub]:
    with MockHub(a_world()) as running:
        running.fault(Trickle(rate=5 * MiB), path="w.safetensors")
        yield running


class Downloading:
    """A download of another process that is under way."""

    def __init__(self, hub: MockHub, home: Path, who: str, *only: str) -> None:
        self.repo = Cached(home / "hub")
        words = {"hub": ["-c", HUB, "download", REPO, *only], "ours": ["-m", "fetchverify", "get", REPO]}[who]
        if who == "ours" and only:
            words += ["--include", *only]
        env = environment(home, hub.endpoint)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, *words], env=env, **pipes)  # type: ignore[call-overload]
        self._unfinished = {
            "hub": f"blobs/{WEIGHTS.sha256()}.*incomplete",
            "ours": f".fetchverify/partial/sha256-{WEIGHTS.sha256()}/data",
        }[who]
        self.partial = self._wait()

    def _wait(self) -> Path:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for place in self.repo.root.glob(self._unfinished):
                if place.stat().st_blocks * 512 > MiB:
                    return place
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        raise AssertionError("nothing landed")

    def ended(self) -> int:
        out, err = self.process.communicate(timeout=60)
        assert 0 == self.process.returncode, out + err
        return 0


@pytest.fixture
def downloading(hub: MockHub, tmp_path: Path) -> Iterator[Callable[..., Downloading]]:
    begun: list[Downloading] = []

    def begin(who: str, *only: str) -> Downloading:
        begun.append(Downloading(hub, tmp_path, who, *only))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.communicate()


async def fix(hub: MockHub, repo: Cached, **more: object) -> FixReport:
    given = {"endpoint": hub.endpoint, "cache_dir": repo.cache, "token": "", "retries": 2}
    return await run(FixOptions(**{**given, **more}), ignore)  # type: ignore[arg-type]


def asked_for(hub: MockHub) -> int:
    """Return the bytes of the weights that were asked for, by whomever."""
    return sum(record.bytes_sent for record in hub.ledger.requests(method="GET") if record.file == "w.safetensors")


def whole(hub: MockHub, repo: Cached, *only: str) -> None:
    found = snapshot_download(REPO, cache_dir=repo.cache, local_files_only=True, allow_patterns=list(only) or None)
    assert WEIGHTS.read(0, WEIGHTS.size) == Path(found, "w.safetensors").read_bytes()
    assert [f"model/{REPO}"] == listed(repo.cache)
    if not only:
        assert 0 == verified(repo.cache, REPO, hub.endpoint)[0]


@pytest.mark.parametrize("who", ["hub", "ours"])
async def test_a_repair_waits_for_a_download_and_takes_its_file(
    hub: MockHub, downloading: Callable[..., Downloading], who: str
) -> None:
    """Its lock is respected, its partial becomes the blob, and no byte comes twice."""
    other = downloading(who)
    inode = other.partial.stat().st_ino
    report = await fix(hub, other.repo)
    assert 0 == report.exit_code, report.as_json()
    assert 0 == other.ended()
    blob = other.repo.blob("w.safetensors")
    assert inode == blob.stat().st_ino
    assert (0, WEIGHTS.size) == (report.bytes_fetched, asked_for(hub))
    whole(hub, other.repo)


@pytest.mark.parametrize("who", ["hub", "ours"])
async def test_offline_a_download_is_left_alone(
    hub: MockHub, downloading: Callable[..., Downloading], who: str
) -> None:
    other = downloading(who)
    inode = other.partial.stat().st_ino
    report = await fix(hub, other.repo, offline=True, purge=PurgeOptions(older_than_s=86400.0), empty_quarantine=True)
    assert inode == other.partial.stat().st_ino
    assert not {Kind.INCOMPLETE, Kind.DEAD_PARTIAL, Kind.STALE_LOCK} & {s.kind for p in report.places for s in p.steps}
    assert 0 == other.ended()
    assert WEIGHTS.size == asked_for(hub)
    whole(hub, other.repo)


@pytest.mark.parametrize("who", ["hub", "ours"])
@pytest.mark.parametrize("offline", [False, True])
async def test_a_download_of_which_nothing_is_published_keeps_its_ref_and_folder(
    hub: MockHub, downloading: Callable[..., Downloading], who: str, offline: bool
) -> None:
    """The hub's client writes the ref first: without a file it seems to lead nowhere."""
    other = downloading(who, "w.safetensors")
    await fix(hub, other.repo, offline=offline)
    assert 0 == other.ended()
    whole(hub, other.repo, "w.safetensors")


@pytest.mark.parametrize("who", ["hub", "ours"])
def test_who_does_not_want_to_wait_is_told_who_downloads(
    hub: MockHub, downloading: Callable[..., Downloading], who: str
) -> None:
    other = downloading(who)
    common = ["--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(other.repo.cache), "--lock-timeout", "0.2"]
    command = [sys.executable, "-m", "fetchverify", "fix-cache", REPO, *common]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 6 == done.returncode, (done.stdout, done.stderr)
    said = done.stdout + done.stderr
    assert f"process {other.process.pid}" in said, said
    assert "Traceback" not in said
    assert 0 == other.ended()
    assert WEIGHTS.size == asked_for(hub)
    whole(hub, other.repo)


async def test_two_repairs_at_once_fetch_a_file_once(hub: MockHub, tmp_path: Path) -> None:
    hub.clear_faults()
    repo = Cached(tmp_path / "cache")
    snapshot_download(REPO, cache_dir=repo.cache, endpoint=hub.endpoint, token=False)
    os.truncate(repo.blob("w.safetensors"), 1000)
    hub.fault(Trickle(rate=10 * MiB), path="w.safetensors")
    hub.ledger.clear()
    common = ["--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(repo.cache)]
    command = [sys.executable, "-m", "fetchverify", "fix-cache", *common]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    told = [one.communicate(timeout=60) for one in both]
    assert [0, 0] == [one.returncode for one in both], told
    assert WEIGHTS.size == asked_for(hub)
    whole(hub, repo)


async def test_a_reader_elsewhere_keeps_what_it_opened_and_never_sees_half(hub: MockHub, tmp_path: Path) -> None:
    """A server has mapped the damaged file; another reads by name again and again: old, absent or new, never cut."""
    hub.clear_faults()
    repo = Cached(tmp_path / "cache")
    snapshot_download(REPO, cache_dir=repo.cache, endpoint=hub.endpoint, token=False)
    repo.flip("w.safetensors", 9 * MiB)
    script = """
import hashlib, mmap, sys, time
from pathlib import Path
place, stop = Path(sys.argv[1]), Path(sys.argv[2])
file = place.open("rb")
held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
first, seen = hashlib.sha256(held).hexdigest(), set()
print("ready", flush=True)
while not stop.exists():
    try:
        seen.add(hashlib.sha256(place.read_bytes()).hexdigest())
    except FileNotFoundError:
        seen.add("absent")
print(first == hashlib.sha256(held).hexdigest(), first, *sorted(seen))
"""
    command = [sys.executable, "-c", script, str(repo.name("w.safetensors")), str(tmp_path / "stop")]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert "ready\n" == reader.stdout.readline()
    report = await fix(hub, repo)
    time.sleep(0.2)
    (tmp_path / "stop").touch()
    out, _ = reader.communicate(timeout=60)
    same, first, *seen = out.split()
    assert (0, "True") == (report.exit_code, same)
    assert WEIGHTS.sha256() in seen
    assert set(seen) <= {first, "absent", WEIGHTS.sha256()}
