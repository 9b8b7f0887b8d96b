"""What others left of a download is used where it can be proved, and never believed; left by the real programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fetchverify.commands.get import GetOptions, run
from fetchverify.core.blocks import BLOCK_SIZE
from fetchverify.core.report import Report
from fetchverify.events import Event, Note, ignore
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from mock_server import MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue

pytestmark = pytest.mark.anyio

BIG = Seeded(40 * MiB + 3, seed="left")
FILES: dict[str, FileValue | None] = {"config.json": b"{}\n", "sub/w.bin": BIG}
BLOCKS = 6


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        yield running


async def get(hub: MockHub, tmp_path: Path, events: list[Event] | None = None, **more: object) -> Report:
    given = {"repo": "org/model", "endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": "", "retries": 3}
    report = await run(GetOptions(**{**given, **more}), ignore if events is None else events.append)  # type: ignore[arg-type]
    assert isinstance(report, Report)
    return report


def sent(hub: MockHub) -> int:
    return sum(record.bytes_sent for record in hub.ledger.requests(method="GET") if record.file == "sub/w.bin")


def right(report: Report) -> bool:
    return BIG.read(0, BIG.size) == (Path(report.target) / "sub" / "w.bin").read_bytes()


def end_in_the_middle(command: list[str], grown: Callable[[], int], *, least: int, **env: str) -> None:
    """Kill a downloader once its file holds so many bytes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with subprocess.Popen(command, env=kept | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while grown() < least:
            assert process.poll() is None, "it was faster than we"
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def end_the_hubs_client(hub: MockHub, where: str, place: Path, grown: Callable[[], int]) -> None:
    code = f"import sys, huggingface_hub as h; h.hf_hub_download('org/model', 'sub/w.bin', {where}=sys.argv[1])"
    command = [sys.executable, "-c", code, str(place)]
    end_in_the_middle(command, grown, least=20 * MiB, HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1")


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"`{tool}` is not installed")


def slow(hub: MockHub) -> None:
    hub.fault(Trickle(rate=24 * MiB), path="sub/w.bin")


def size_of(*places: Path) -> int:
    return sum(place.stat().st_blocks * 512 for place in places if place.exists())


def address(hub: MockHub) -> str:
    return f"{hub.endpoint}/org/model/resolve/main/sub/w.bin"


# --- left by the real programs ----------------------------------------------------------------------------------


async def test_a_partial_of_the_hubs_client_in_the_cache(hub: MockHub, tmp_path: Path) -> None:
    """It is copied and not renamed: its owner may be a process on another machine."""
    slow(hub)
    blobs = tmp_path / "cache" / "models--org--model" / "blobs"
    end_the_hubs_client(hub, "cache_dir", tmp_path / "cache", lambda: size_of(*blobs.glob("*.incomplete")))
    (left,) = blobs.glob("*.incomplete")
    before = left.read_bytes()
    hub.clear_faults()
    hub.ledger.clear()
    events: list[Event] = []
    report = await get(hub, tmp_path, events)
    assert (0, True) == (report.exit_code, right(report))
    assert sent(hub) <= BIG.size - 2 * BLOCK_SIZE
    assert any("the hub's client left" in event.message for event in events if isinstance(event, Note))
    assert before == left.read_bytes()


async def test_a_partial_of_the_hubs_client_in_a_folder(hub: MockHub, tmp_path: Path) -> None:
    slow(hub)
    folder = tmp_path / "here"
    end_the_hubs_client(hub, "local_dir", folder, lambda: size_of(*folder.rglob("*.incomplete")))
    hub.clear_faults()
    hub.ledger.clear()
    report = await get(hub, tmp_path, to=folder)
    assert (0, True) == (report.exit_code, right(report))
    assert sent(hub) <= BIG.size - 2 * BLOCK_SIZE


async def test_a_partial_of_curl(hub: MockHub, tmp_path: Path) -> None:
    needs("curl")
    place = tmp_path / "here" / "sub" / "w.bin"
    place.parent.mkdir(parents=True)
    end_in_the_middle(
        ["curl", "-sL", "--limit-rate", "24M", "-o", str(place), address(hub)], lambda: size_of(place), least=20 * MiB
    )
    hub.ledger.clear()
    report = await get(hub, tmp_path, to=tmp_path / "here")
    assert (0, True, 0) == (report.exit_code, right(report), report.quarantined)
    assert sent(hub) <= BIG.size - 2 * BLOCK_SIZE


async def test_a_file_of_aria2_with_its_control_file(hub: MockHub, tmp_path: Path) -> None:
    """Its bytes lie here and there; which they are stands in the control file, which goes when the file is whole."""
    needs("aria2c")
    folder = tmp_path / "here" / "sub"
    folder.mkdir(parents=True)
    command = ["aria2c", "-q", "-x2", "-s2", "-k1M", "--file-allocation=none", "--max-overall-download-limit=12M"]
    command += ["--auto-save-interval=1", "-d", str(folder), "-o", "w.bin", address(hub)]
    control = folder / "w.bin.aria2"

    def grown() -> int:
        # The control file is written each second: what it does not name is lost.
        return size_of(folder / "w.bin") if control.exists() and control.stat().st_size > 60 else 0

    end_in_the_middle(command, grown, least=30 * MiB)
    hub.ledger.clear()
    events: list[Event] = []
    report = await get(hub, tmp_path, events, to=tmp_path / "here")
    assert (0, True) == (report.exit_code, right(report))
    assert any("aria2 left" in event.message for event in events if isinstance(event, Note))
    assert sent(hub) < BIG.size
    assert not control.exists()


# --- laws -------------------------------------------------------------------------------------------------------


def leave_in_cache(tmp_path: Path, content: bytes) -> Path:
    blobs = tmp_path / "cache" / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    place = blobs / f"{BIG.sha256()}.7f2a91c0.incomplete"
    place.write_bytes(content)
    return place


async def test_of_a_bad_leftover_the_adopted_bytes_are_fetched_first_and_alone(hub: MockHub, tmp_path: Path) -> None:
    content = bytearray(BIG.read(0, 3 * BLOCK_SIZE))
    content[BLOCK_SIZE + 5] ^= 1
    leave_in_cache(tmp_path, bytes(content))
    report = await get(hub, tmp_path)
    assert (0, True, BIG.size) == (report.exit_code, right(report), sent(hub))
    (outcome,) = [one for one in report.outcomes if one.path == "sub/w.bin"]
    assert ("refetched", f"3 of {BLOCKS} blocks from a leftover of the hub's client were bad") == (
        outcome.kind.value,
        outcome.detail,
    )
    assert BIG.size == outcome.fetched


async def test_a_leftover_that_is_whole_and_right_costs_no_byte(hub: MockHub, tmp_path: Path) -> None:
    leave_in_cache(tmp_path, BIG.read(0, BIG.size))
    report = await get(hub, tmp_path)
    assert (True, 0) == (right(report), sent(hub))


async def test_what_somebody_still_writes_to_is_left_alone(hub: MockHub, tmp_path: Path) -> None:
    cache = HubCache.for_repo(Disk(), tmp_path / "cache", "model", "org/model")
    leave_in_cache(tmp_path, BIG.read(0, 3 * BLOCK_SIZE))
    lock = tmp_path / "cache" / ".locks" / cache.root.name / f"{BIG.sha256()}.lock"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen(
        [shutil.which("flock") or "flock", str(lock), "sh", "-c", "echo held; sleep 3"], stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        report = await get(hub, tmp_path)
    assert (True, BIG.size) == (right(report), sent(hub))


async def test_a_leftover_that_is_longer_than_the_file_or_no_file_is_not_looked_at(
    hub: MockHub, tmp_path: Path
) -> None:
    place = leave_in_cache(tmp_path, BIG.read(0, BIG.size) + b"more")
    os.mkfifo(place.with_name(f"{BIG.sha256()}.00000000.incomplete"))
    (place.parent / f"{BIG.sha256()}.11111111.incomplete").symlink_to("/dev/zero")
    report = await get(hub, tmp_path)
    assert (True, BIG.size) == (right(report), sent(hub))


@pytest.mark.parametrize("when", ["adopting", "refusing"])
async def test_a_kill_keeps_the_difference(hub: MockHub, tmp_path: Path, when: str) -> None:
    """A bad leftover that was copied before the kill is still the first to be doubted after it."""
    from fetchverify.core.leftover import Leftover
    from fetchverify.core.manifest import Digest
    from fetchverify.store.partial import Partial

    content = bytearray(BIG.read(0, 3 * BLOCK_SIZE))
    content[5] ^= 1
    place = leave_in_cache(tmp_path, bytes(content))
    area = HubCache.for_repo(Disk(), tmp_path / "cache", "model", "org/model").area
    partial = Partial.open(Disk(), area, Digest(algo="sha256", hex=BIG.sha256()), BIG.size)
    partial.adopt(Leftover(where=place, whose="nobody", ranges=((0, 3 * BLOCK_SIZE),)))
    if when == "refusing":
        partial._leftovers.add((), bad=True)  # the process died before the blocks were dropped
    partial.close()
    report = await get(hub, tmp_path)
    assert (0, True, BIG.size) == (report.exit_code, right(report), sent(hub))
