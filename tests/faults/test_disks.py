"""Real file systems, full, limited, failing or read-only: exit 5, what was proved is kept, what lacks is told."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fetchverify.commands.get import GetOptions, run
from fetchverify.core.report import OutcomeKind, Report
from fetchverify.errors import DiskError
from fetchverify.events import Event, FileFinished, Progress, ignore
from mock_server import MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue
from tests.mounts import call, mounted

pytestmark = [pytest.mark.anyio, pytest.mark.root]

BLOCK = 8 * MiB
FILES: dict[str, FileValue | None] = {
    "config.json": b"{}\n",
    # As many as are under way at once: the last one begins when one of these has ended.
    **{f"a{n}.bin": Seeded(3 * MiB, seed=f"a{n}") for n in range(4)},
    "w.bin": Seeded(40 * MiB, seed="w"),
}


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        yield running


async def get(hub: MockHub, emit: Callable[[Event], None] = ignore, **more: object) -> Report:
    given = {"repo": "org/model", "endpoint": hub.endpoint, "token": "", "retries": 3, "connections": 2}
    report = await run(GetOptions(**{**given, **more}), emit)  # type: ignore[arg-type]
    assert isinstance(report, Report)
    return report


async def fails(hub: MockHub, emit: Callable[[Event], None] = ignore, **more: object) -> DiskError:
    with pytest.raises(DiskError) as caught:
        await get(hub, emit, **more)
    assert caught.value.exit_code == 5
    return caught.value


def assert_whole(hub: MockHub, target: Path) -> None:
    expected = {path: file.content.sha256() for path, file in hub.world.repo("org/model").head().files.items()}
    assert expected == {path: hashlib.sha256((target / path).read_bytes()).hexdigest() for path in expected}


def when(kind: type[Event], act: Callable[[], object], *, path: str, after: int = 0) -> Callable[..., None]:
    """Return a sink that acts once, at the first such event (of such a path, with so many bytes received)."""
    done: list[bool] = []

    def emit(event: Event) -> None:
        right = isinstance(event, kind) and fnmatch.fnmatch(getattr(event, "path", ""), path)
        if right and getattr(event, "received", 0) >= after and not done:
            done.append(True)
            act()

    return emit


def no_half_files(hub: MockHub, cache: Path) -> list[str]:
    """Return what has a name in a snapshot; all of it is whole."""
    kept = []
    for path, file in hub.world.repo("org/model").head().files.items():
        for found in cache.glob(f"models--org--model/snapshots/*/{path}"):
            assert file.content.sha256() == hashlib.sha256(found.read_bytes()).hexdigest()
            kept.append(path)
    return kept


# --- full ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_a_disk_that_others_fill_says_how_much_is_missing(hub: MockHub, tmp_path: Path, kind: str) -> None:
    """Somebody writes between our look at the free space and the reservation of the large file."""
    with mounted(tmp_path, kind, "80M") as disk:
        hog = disk / "hog"

        def fill() -> None:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            with hog.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - 20 * MiB)

        error = await fails(hub, when(FileFinished, fill, path="a?.bin"), cache_dir=disk / "cache")
        assert "No space left on device (ENOSPC)" in error.message
        told = re.search(r"needs (\d+) bytes, (\d+) are free: (\d+) bytes are missing$", error.message)
        assert told, error.message
        needed, free, missing = map(int, told.groups())
        assert (needed - free, True, True) == (missing, needed >= 40 * MiB, 5 * MiB < free < 24 * MiB)
        assert "what arrived is kept" in (error.hint or "")
        kept = no_half_files(hub, disk / "cache")
        assert kept
        hog.unlink()
        hub.ledger.clear()
        report = await get(hub, cache_dir=disk / "cache")
        assert_whole(hub, Path(report.target))
        assert [0] * len(kept) == [hub.ledger.bytes_sent(path) for path in kept]


async def test_a_disk_without_reservations_fills_up_amid_a_file(hub: MockHub, tmp_path: Path) -> None:
    """exFAT cannot reserve what it does not write; whole blocks are kept, the rest fits once there is room."""
    with mounted(tmp_path, "exfat", "128M") as disk:
        hog = disk / "hog"

        def fill() -> None:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            hog.write_bytes(bytes(free - 20 * MiB))

        error = await fails(hub, when(FileFinished, fill, path="a?.bin"), cache_dir=disk / "cache")
        assert re.search(r"needs \d+ bytes, \d+ are free: \d+ bytes are missing$", error.message), error.message
        assert "(ENOSPC)" in error.message
        kept = no_half_files(hub, disk / "cache")
        hog.unlink()
        hub.ledger.clear()
        report = await get(hub, cache_dir=disk / "cache")
        assert_whole(hub, Path(report.target))
        assert [0] * len(kept) == [hub.ledger.bytes_sent(path) for path in kept]


async def test_space_that_a_partial_reserved_is_not_asked_for_again(hub: MockHub, tmp_path: Path) -> None:
    """A run that was ended on a disk where little else fits must go on, not be told that the disk is full."""
    hub.fault(Trickle(rate=8 * MiB), path="w.bin")
    with mounted(tmp_path, "ext4", "72M") as disk:
        with pytest.raises(ExceptionGroup):
            await get(hub, when(Progress, lambda: 1 / 0, path="w.bin", after=BLOCK + MiB), cache_dir=disk / "c")
        hub.clear_faults()
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize < 30 * MiB
        report = await get(hub, cache_dir=disk / "c")
        assert_whole(hub, Path(report.target))


# --- a quota ------------------------------------------------------------------------------------------------------


async def test_a_quota_that_is_used_up_is_called_a_quota(hub: MockHub, tmp_path: Path) -> None:
    """The disk has room, this folder may not take it: free space alone would mislead."""
    with mounted(tmp_path, "btrfs", "256M") as disk:
        folder = disk / "limited"
        call("btrfs", "quota", "enable", str(disk))
        call("btrfs", "subvolume", "create", str(folder))
        call("btrfs", "qgroup", "limit", "30M", str(folder))
        error = await fails(hub, cache_dir=folder)
        assert "(EDQUOT)" in error.message
        assert "free" not in error.message
        assert re.search(r"the rest of the run needs \d{8} bytes$", error.message), error.message
        assert "quota" in (error.hint or "")
        kept = no_half_files(hub, folder)
        call("btrfs", "qgroup", "limit", "none", str(folder))
        hub.ledger.clear()
        report = await get(hub, cache_dir=folder)
        assert_whole(hub, Path(report.target))
        assert [0] * len(kept) == [hub.ledger.bytes_sent(path) for path in kept]


# --- failing ------------------------------------------------------------------------------------------------------


async def test_a_device_that_fails_publishes_nothing_it_did_not_take(hub: MockHub, tmp_path: Path) -> None:
    """A thin volume that ran dry: the file system takes what its device refuses, and only a sync tells (EIO)."""
    with mounted(tmp_path, "tmpfs", "40M") as thin:
        image = thin / "image"
        with mounted(tmp_path, "ext4", "200M", image=image, options="errors=remount-ro") as disk:
            error = await fails(hub, cache_dir=disk / "cache")
            # What failed first, not the clean-up that failed after it.
            assert re.match(r"cannot (sync|write to|create|reserve) .*\((EIO|EROFS|ENOSPC)\)", error.message), error
            assert error.hint
            no_half_files(hub, disk / "cache")
        call("mount", "-o", "remount,size=300M", str(thin))
        call("sh", "-c", f"e2fsck -fy {image} >&2 || test $? -lt 4")
        call("mount", "-o", "loop", str(image), str(disk))
        try:
            no_half_files(hub, disk / "cache")
            report = await get(hub, cache_dir=disk / "cache")
            assert_whole(hub, Path(report.target))
        finally:
            call("umount", "-l", str(disk))


async def test_a_file_system_that_becomes_read_only_amid_a_file(hub: MockHub, tmp_path: Path) -> None:
    """As ext4 does when it finds itself damaged."""
    hub.fault(Trickle(rate=16 * MiB), path="w.bin")
    with mounted(tmp_path, "ext4", "100M", options="errors=remount-ro") as disk:
        device = Path(call("findmnt", "-no", "SOURCE", str(disk)).strip()).name
        trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel cannot provoke an ext4 error")
        harm = when(Progress, lambda: trigger.write_text("test\n"), path="w.bin", after=2 * BLOCK)
        error = await fails(hub, harm, cache_dir=disk / "cache")
        assert re.search(r"\((EROFS|EIO)\)", error.message), error.message
        no_half_files(hub, disk / "cache")


async def test_a_read_only_disk_is_named_and_nothing_is_asked_for(hub: MockHub, tmp_path: Path) -> None:
    with mounted(tmp_path, "ext4", "100M") as disk:
        call("mount", "-o", "remount,ro", str(disk))
        error = await fails(hub, cache_dir=disk / "cache")
        assert "(EROFS)" in error.message
        assert "read-only" in (error.hint or "")
        assert 0 == hub.ledger.bytes_sent("w.bin")


async def test_what_is_whole_on_a_read_only_disk_is_kept(hub: MockHub, tmp_path: Path) -> None:
    """A model on a read-only volume is what many containers have: there is nothing to write, so nothing fails."""
    with mounted(tmp_path, "ext4", "100M") as disk:
        await get(hub, cache_dir=disk / "cache")
        call("mount", "-o", "remount,ro", str(disk))
        report = await get(hub, cache_dir=disk / "cache")
        assert (0, False) == (report.exit_code, report.changed)


# --- small file systems -------------------------------------------------------------------------------------------


async def test_a_cache_without_links_and_holes_is_one_that_the_hub_reads(hub: MockHub, tmp_path: Path) -> None:
    """FAT and exFAT: neither symbolic nor hard links, no sparse files, and names that ignore case."""
    from huggingface_hub import snapshot_download

    with mounted(tmp_path, "exfat", "128M") as disk:
        report = await get(hub, cache_dir=disk / "cache")
        assert_whole(hub, Path(report.target))
        assert not [path for path in Path(report.target).iterdir() if path.is_symlink()]
        read = snapshot_download("org/model", cache_dir=disk / "cache", local_files_only=True)
        assert Path(report.target).samefile(read)
        hub.ledger.clear()
        again = await get(hub, cache_dir=disk / "cache")
        assert (0, {OutcomeKind.KEPT}) == (again.bytes_fetched, {one.kind for one in again.outcomes})


async def test_names_of_255_bytes_are_published(hub: MockHub, tmp_path: Path) -> None:
    """The most that file systems take; in bytes, of which a letter may need four."""
    names = ["n" * 251 + ".bin", "ü" * 125 + "x.bin", "d" * 255 + "/" + "🤗" * 63 + "abc"]
    assert {255} == {len(part.encode()) for name in names for part in name.split("/")}
    hub.world.repo("org/model").commit({name: Seeded(2 * MiB, seed=name) for name in names})
    with mounted(tmp_path, "ext4", "160M") as disk:
        assert_whole(hub, Path((await get(hub, cache_dir=disk / "cache")).target))
        # In a folder the hub's client keeps `NAME.metadata` beside each file, and cannot for these.
        report = await get(hub, cache_dir=disk / "none", to=disk / "here")
        assert (1, set(names)) == (
            report.exit_code,
            {one.path for one in report.outcomes if one.kind is OutcomeKind.REFUSED},
        )
        assert all("too long" in (one.detail or "") for one in report.outcomes if one.path in names)
