"""A partial survives kills, never mixes two writers, and vouches only for what landed."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash

from fetchverify.core.blocks import BlockMap, Tiling
from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError, LockedError
from fetchverify.store import blockmap, owner
from fetchverify.store.disk import Disk, temporary_name
from fetchverify.store.partial import Partial, landed_bytes, partial_keys
from fetchverify.store.partialdirs import sweep

DIGEST = Digest(algo="sha256", hex="ab" * 32)
SIZE, BLOCK = 100, 16  # seven blocks, the last of 4 bytes
DATA = bytes(range(100))


def open_(disk: Disk, area: Path) -> Partial:
    return Partial.open(disk, area, DIGEST, SIZE, block_size=BLOCK)


def land(partial: Partial, *indexes: int) -> None:
    for index in indexes:
        block = partial.tiling.block(index)
        partial.write(DATA[block.start : block.stop], block.start)
        partial.record(index, xxhash.xxh3_128_digest(DATA[block.start : block.stop]))


def folder(area: Path) -> Path:
    return area / "partial" / DIGEST.key


def in_a_child(work: Callable[[], None]) -> None:
    """Do `work` in a process that then dies of SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert signal.SIGKILL == os.WTERMSIG(status), "the child failed"


def test_a_partial_that_was_closed_goes_on_where_it_stopped(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path) as first:
        land(first, 4, 1)
    with open_(disk, tmp_path) as second:
        assert ((0, 2, 3, 5, 6), 32) == (second.landed.missing(), second.landed.landed)
        land(second, 0, 2, 3, 5, 6)
        path = second.seal()
        assert (DATA, DIGEST.key) == (path.read_bytes(), path.parent.name)
        second.discard()
    assert [] == os.listdir(tmp_path / "partial")


def test_kill_9_loses_nothing_that_landed_and_keeps_the_inode(disk: Disk, tmp_path: Path) -> None:
    in_a_child(lambda: land(open_(disk, tmp_path), 0, 1, 2))
    inode = (folder(tmp_path) / "data").stat().st_ino
    assert 48 == landed_bytes(tmp_path, DIGEST, SIZE, block_size=BLOCK)
    with open_(disk, tmp_path) as partial:
        assert (48, inode) == (partial.landed.landed, partial.path.stat().st_ino)
        found = bytearray(48)
        assert 48 == partial.read_into(memoryview(found), 0)
        assert DATA[:48] == found


def test_kills_again_and_again_are_survived(disk: Disk, tmp_path: Path) -> None:
    for index in range(5):

        def one_more(index: int = index) -> None:
            partial = open_(disk, tmp_path)
            assert index * BLOCK == partial.landed.landed
            land(partial, index)

        in_a_child(one_more)
    assert [DIGEST.key] == os.listdir(tmp_path / "partial")
    assert 80 == landed_bytes(tmp_path, DIGEST, SIZE, block_size=BLOCK)


def test_nobody_gets_what_somebody_is_writing(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path):
        with pytest.raises(
            LockedError, match=rf"is being downloaded by process {os.getpid()} \(this one\) since 2"
        ) as caught:
            open_(disk, tmp_path)
        assert caught.value.hint is not None
        assert f"kill {os.getpid()}" in caught.value.hint
        child = os.fork()
        if child == 0:
            try:
                open_(disk, tmp_path)
            except LockedError:
                os._exit(42)
            os._exit(1)
        assert 42 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    open_(disk, tmp_path).close()


def test_of_many_processes_that_find_a_dead_one_exactly_one_goes_on(disk: Disk, tmp_path: Path) -> None:
    in_a_child(lambda: land(open_(disk, tmp_path), 0))
    gate, release = os.pipe()
    stay, leave = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os.close(release)
            os.close(leave)
            os.read(gate, 1)  # all at once
            try:
                open_(disk, tmp_path)
            except LockedError:
                os._exit(42)
            os.read(stay, 1)  # until all others have looked
            os._exit(0)
        children.append(child)
    for end in (release, gate, stay):
        os.close(end)
    codes: list[int] = []
    until = time.monotonic() + 60
    while len(codes) < 7 and time.monotonic() < until:
        for child in tuple(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                codes.append(os.waitstatus_to_exitcode(status))
        time.sleep(0.01)
    os.close(leave)
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert [0] + [42] * 7 == sorted(codes)


def test_others_claims_that_come_and_go_make_nobody_begin_anew(disk: Disk, tmp_path: Path) -> None:
    """A name that is gone between two looks was taken for one that may not be written: then each got a copy."""
    in_a_child(lambda: land(open_(disk, tmp_path), 0))
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            claim = temporary_name(folder(tmp_path))
            claim.touch()
            claim.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            with open_(disk, tmp_path) as partial:
                assert partial.path.parent == folder(tmp_path)
    finally:
        done.set()
        other.join()


@pytest.fixture
def stranger(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Partial:
    """A partial whose owner is on another machine, so that nothing can be proved about it; it is still open."""
    real = owner.myself
    monkeypatch.setattr(owner, "on_local_file_system", lambda path: False)
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    monkeypatch.setattr("fetchverify.store.partialdirs.myself", lambda: replace(real(), boot="their boot"))
    theirs = open_(disk, tmp_path)
    land(theirs, 0, 1)
    monkeypatch.setattr("fetchverify.store.partialdirs.myself", real)
    return theirs


def test_an_owner_that_may_be_alive_keeps_its_inode(disk: Disk, tmp_path: Path, stranger: Partial) -> None:
    """Its late write must not reach the file that we publish."""
    ours = open_(disk, tmp_path)
    assert (2, 32) == (len(os.listdir(tmp_path / "partial")), ours.landed.landed)
    assert stranger.path.stat().st_ino != ours.path.stat().st_ino
    stranger.write(b"\xff" * SIZE, 0)
    land(ours, *ours.landed.missing())
    assert DATA == ours.seal().read_bytes()
    ours.discard()
    assert stranger.path.exists()
    stranger.close()


def test_of_a_strangers_blocks_only_whole_ones_are_copied(disk: Disk, tmp_path: Path, stranger: Partial) -> None:
    stranger.write(b"\xff", 3)  # its writer is tearing block 0
    with open_(disk, tmp_path) as ours:
        assert (0, 2, 3, 4, 5, 6) == ours.landed.missing()
    stranger.close()


def test_our_copy_of_a_strangers_partial_is_taken_over_and_not_copied_again(
    disk: Disk, tmp_path: Path, stranger: Partial
) -> None:
    """A job that is killed every hour must not fill the disk with copies."""
    with open_(disk, tmp_path) as ours:
        land(ours, 2)
        path = ours.path
    with open_(disk, tmp_path) as again:
        assert (path, 48) == (again.path, again.landed.landed)
        assert 2 == len(os.listdir(tmp_path / "partial"))
        with pytest.raises(LockedError):
            open_(disk, tmp_path)
    stranger.close()


def test_a_reflink_is_taken_where_there_is_one(
    disk: Disk, tmp_path: Path, stranger: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reflink(source_fd: int, fd: int) -> bool:
        os.pwrite(fd, os.pread(source_fd, SIZE, 0), 0)
        return True

    monkeypatch.setattr("fetchverify.store.rawdisk.reflink", reflink)
    with open_(disk, tmp_path) as ours:
        assert (32, DATA[:32]) == (ours.landed.landed, ours.path.read_bytes()[:32])
        assert 32 == ours.unsynced_bytes
    stranger.close()


def test_of_several_dead_partials_the_fullest_goes_on(disk: Disk, tmp_path: Path, stranger: Partial) -> None:
    with open_(disk, tmp_path) as ours:
        land(ours, 2, 3)
        fullest = ours.path
    stranger.close()  # free now, too, with fewer blocks
    assert 64 == landed_bytes(tmp_path, DIGEST, SIZE, block_size=BLOCK)
    with open_(disk, tmp_path) as again:
        assert (fullest, 64) == (again.path, again.landed.landed)


def test_publishing_also_removes_what_the_dead_left(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, 0)
    orphan = tmp_path / "partial" / f"{DIGEST.key}.0123abcd"
    orphan.mkdir()
    (orphan / "data").write_bytes(b"x")
    with open_(disk, tmp_path) as partial:
        assert orphan.exists()
        land(partial, *range(7))
        partial.seal()
        partial.discard()
    assert [] == os.listdir(tmp_path / "partial")


def test_what_a_kill_amid_publishing_leaves_is_swept_and_nothing_else(disk: Disk, tmp_path: Path) -> None:
    """The data have their name by then, so no later run opens this partial: it would lie there for ever."""

    def die_amid_publishing() -> None:
        partial = open_(disk, tmp_path)
        land(partial, *range(7))
        partial.seal().rename(tmp_path / "published")

    in_a_child(die_amid_publishing)
    gone = tmp_path / "partial" / ".gone-0123"
    gone.mkdir()
    (gone / "journal").write_bytes(b"x")
    dead = Digest(algo="sha256", hex="de" * 32)
    in_a_child(lambda: land(Partial.open(disk, tmp_path, dead, SIZE, block_size=BLOCK), 0))
    live = Digest(algo="sha256", hex="11" * 32)
    with Partial.open(disk, tmp_path, live, SIZE, block_size=BLOCK) as partial:
        partial.path.rename(tmp_path / "being published")
        sweep(disk, tmp_path)
        assert sorted([dead.key, live.key]) == sorted(os.listdir(tmp_path / "partial"))


@pytest.mark.parametrize("cut", [1, 20, 31, 32, 33])
def test_what_follows_a_torn_record_is_not_lost(disk: Disk, tmp_path: Path, cut: int) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, 0, 1, 2)
    journal = folder(tmp_path) / "journal"
    os.truncate(journal, journal.stat().st_size - cut)
    with open_(disk, tmp_path) as partial:
        kept = 2 - cut // 33
        assert tuple(range(kept, 7)) == partial.landed.missing()
        land(partial, 5)
    with open_(disk, tmp_path) as partial:
        assert 5 in partial.landed.hashes


@pytest.mark.parametrize("harm", ["journal", "data", "longer", "shorter", "foreign", "link"])
def test_data_and_journal_that_do_not_fit_begin_anew(disk: Disk, tmp_path: Path, harm: str) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, 0, 1)
    data, journal = folder(tmp_path) / "data", folder(tmp_path) / "journal"
    match harm:
        case "journal":
            journal.unlink()
        case "data":  # published, and killed before the directory was removed
            data.rename(tmp_path / "blob")
        case "longer" | "shorter":
            os.truncate(data, SIZE + (1 if harm == "longer" else -1))
        case "foreign":
            journal.write_bytes(b"\0" * journal.stat().st_size)
        case "link":
            data.rename(tmp_path / "victim")
            data.symlink_to(tmp_path / "victim")
    assert 0 == landed_bytes(tmp_path, DIGEST, SIZE, block_size=BLOCK)
    with open_(disk, tmp_path) as partial:
        assert 0 == partial.landed.landed
        land(partial, *range(7))
        assert DATA == partial.seal().read_bytes()
        assert not partial.path.is_symlink()


def test_another_size_or_block_size_shares_nothing(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, 0)
    assert 0 == landed_bytes(tmp_path, DIGEST, SIZE, block_size=32)
    assert 0 == landed_bytes(tmp_path, DIGEST, SIZE + 1, block_size=BLOCK)
    assert 0 == landed_bytes(tmp_path, replace(DIGEST, hex="cd" * 32), SIZE, block_size=BLOCK)
    assert frozenset({DIGEST.key}) == partial_keys(tmp_path)


def test_dropped_blocks_stay_dropped(disk: Disk, tmp_path: Path) -> None:
    def drop() -> None:
        partial = open_(disk, tmp_path)
        land(partial, 0, 1, 2)
        partial.drop([1, 6])
        land(partial, 3)

    in_a_child(drop)
    with open_(disk, tmp_path) as partial:
        assert (1, 4, 5, 6) == partial.landed.missing()


def test_a_second_record_of_a_block_is_ignored(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, 0)
        size = (folder(tmp_path) / "journal").stat().st_size
        partial.record(0, b"another hash 16b")
        assert size == (folder(tmp_path) / "journal").stat().st_size
        with pytest.raises(IndexError):
            partial.record(7, b"0" * 16)


class FailingDisk(Disk):
    """A disk whose syncs of one file fail when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: str | None = None
        self.synced: list[str] = []

    def fsync(self, fd: int) -> None:
        name = Path(self._name(fd)).name
        if name == self.broken:
            raise DiskError("cannot sync")
        self.synced.append(name)
        super().fsync(fd)


def test_data_is_synced_before_the_journal_and_once(tmp_path: Path) -> None:
    disk = FailingDisk()
    with open_(disk, tmp_path) as partial:
        land(partial, 0, 6)
        disk.synced.clear()
        assert 20 == partial.unsynced_bytes
        partial.sync()
        partial.sync()
        assert (["data", "journal"], 0) == (disk.synced, partial.unsynced_bytes)


def test_what_was_closed_without_a_sync_is_synced_by_who_goes_on(tmp_path: Path) -> None:
    """A repair copies good blocks and hands them on at once: they reach the disk while they are hashed."""
    disk = FailingDisk()
    partial = open_(disk, tmp_path)
    land(partial, 0, 6)
    disk.synced.clear()
    partial.close(sync=False)
    assert [] == disk.synced
    with open_(disk, tmp_path) as again:
        disk.synced.clear()
        again.sync()
        again.sync()
        assert ["data", "journal"] == disk.synced


def test_after_a_failed_sync_nothing_unsynced_is_trusted(tmp_path: Path) -> None:
    """The kernel marks pages clean after a failed write: a second fsync succeeds and the bytes are gone."""
    disk = FailingDisk()
    partial = open_(disk, tmp_path)
    land(partial, 0)
    partial.sync()
    land(partial, 1)
    disk.broken = "data"
    with pytest.raises(DiskError):
        partial.sync()
    disk.broken = None
    for late in (partial.sync, lambda: partial.record(2, b"0" * 16), lambda: partial.write(b"late", 0)):
        with pytest.raises(DiskError):
            late()
    partial.close()
    with open_(disk, tmp_path) as again:
        assert {0} == set(again.landed.hashes)


def test_half_a_record_on_a_full_disk_does_not_hide_what_follows(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.write, 0

    def full(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(fd, data[:7])
        raise OSError(errno.ENOSPC, "full")

    with open_(disk, tmp_path) as partial:
        land(partial, 0)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DiskError, match="ENOSPC"):
            land(partial, 1)
        monkeypatch.undo()
        land(partial, 2)
    with open_(disk, tmp_path) as partial:
        assert {0, 2} == set(partial.landed.hashes)


def test_sealing_what_is_not_whole_is_a_bug(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, 0)
        with pytest.raises(ValueError, match="not every block landed"):
            partial.seal()


def test_a_sealed_file_has_no_writable_descriptor_and_its_owner_stays(disk: Disk, tmp_path: Path) -> None:
    with open_(disk, tmp_path) as partial:
        land(partial, *range(7))
        path = partial.seal()
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and _is(fd)]
        assert [] == [name for name in opened if name in {str(path), str(path.with_name("journal"))}]
        with pytest.raises(ValueError, match="closed"):
            partial.write(b"late", 0)
        with pytest.raises(LockedError):
            open_(disk, tmp_path)


def _is(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_an_empty_file_has_no_blocks_and_can_be_sealed(disk: Disk, tmp_path: Path) -> None:
    with Partial.open(disk, tmp_path, DIGEST, 0) as partial:
        assert ((), b"") == (partial.landed.missing(), partial.seal().read_bytes())
        partial.discard()


def test_many_threads_land_blocks_while_others_look_and_sync(disk: Disk, tmp_path: Path) -> None:
    count, size = 400, 64
    data = os.urandom(count * size)
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with Partial.open(disk, tmp_path, DIGEST, len(data), block_size=size) as partial:
        failures: list[BaseException] = []

        def guarded(work: Callable[..., None], *args: int) -> None:
            try:
                work(*args)
            except BaseException as error:
                failures.append(error)

        def writer(first: int) -> None:
            for index in range(first, count, 4):
                piece = data[index * size : (index + 1) * size]
                partial.write(piece, index * size)
                partial.record(index, xxhash.xxh3_128_digest(piece))

        def watcher() -> None:
            while partial.landed.missing():
                assert 0 <= partial.landed.landed <= len(data)
                partial.sync()

        threads = [threading.Thread(target=guarded, args=(writer, n)) for n in range(4)]
        threads += [threading.Thread(target=guarded, args=(watcher,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        sys.setswitchinterval(previous)
        assert ([], data) == (failures, partial.seal().read_bytes())
    assert len(data) == landed_bytes(tmp_path, DIGEST, len(data), block_size=size)


def test_a_block_map_is_evidence_only_whole_and_for_its_own_file(disk: Disk, tmp_path: Path) -> None:
    tiling = Tiling(size=SIZE, block_size=BLOCK)
    whole = BlockMap(tiling=tiling, hashes={index: bytes([index]) * 16 for index in range(7)})
    blockmap.keep_block_map(disk, tmp_path, DIGEST, whole)

    def load(digest: Digest = DIGEST, size: int = SIZE) -> BlockMap | None:
        return blockmap.load_block_map(tmp_path, digest, size, block_size=BLOCK)

    assert whole == load()
    assert (None, None) == (load(size=SIZE + 1), load(replace(DIGEST, hex="cd" * 32)))
    path = tmp_path / "blocks" / DIGEST.key
    raw = path.read_bytes()
    for harmed in (raw[:-1], raw[:-33], raw + b"x", raw[:200] + b"?" + raw[201:], b""):
        path.write_bytes(harmed)
        assert load() is None
    with pytest.raises(ValueError, match="complete"):
        blockmap.keep_block_map(disk, tmp_path, DIGEST, BlockMap(tiling=tiling, hashes={}))
    blockmap.drop_block_map(disk, tmp_path, DIGEST)
    assert load() is None
