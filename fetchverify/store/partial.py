"""Data and journal of one unfinished file, kept so that a killed run goes on; proving is left to `engine`.

`<area>/partial/<digest key>/` holds `data`, `journal` and the owner's records. Where that directory belongs to
somebody who may still be at work, ours is `<digest key>.<8 hex>` beside it, and begins with a copy of what they had.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import xxhash

from fetchverify.core.blocks import BLOCK_SIZE, BlockMap, Tiling, encode_header, encode_record
from fetchverify.core.leftover import Leftover, whole_blocks
from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError
from fetchverify.store.direct import DirectWriter
from fetchverify.store.disk import Disk
from fetchverify.store.marks import Marks
from fetchverify.store.owner import Hold, myself
from fetchverify.store.partialdirs import (
    GONE,
    candidates,
    landed_bytes,
    partial_keys,
    read_journal,
    remove_dead,
    settle,
)

__all__ = ["Partial", "landed_bytes", "partial_keys"]


class Partial:
    """One unfinished file, owned by this process until `close` or `discard`.

    `read_into`, `write`, `record`, `drop` and `sync` may be called from several threads at once.

    Attributes:
        path: of the data file.
        landed: live view of the blocks that the journal vouches for.
    """

    def __init__(self, disk: Disk, folder: Path, hold: Hold, digest: Digest, tiling: Tiling) -> None:
        """Start on a claimed directory; use `open`."""
        self.digest = digest
        self.tiling = tiling
        self.path = folder / "data"
        self._disk = disk
        self._folder = folder
        self._hold = hold
        self._lock = threading.Lock()  # journal, `landed`, `_unsynced`
        self._syncing = threading.Lock()
        self._unsynced: set[int] = set()
        self._maybe_unsynced = False  # what an earlier owner wrote; nothing of it is dropped where a sync fails
        self._broken: DiskError | None = None
        self._data: int | None = None
        self._journal: int | None = None
        self._direct = DirectWriter(disk, self.path)
        self._leftovers = Marks(disk, folder / "leftovers")
        self.landed = BlockMap(tiling=tiling, hashes={})

    @classmethod
    def open(cls, disk: Disk, area: Path, digest: Digest, size: int, *, block_size: int = BLOCK_SIZE) -> Partial:
        """Return the partial of this digest, with what earlier runs left.

        A directory whose last owner is provably gone is taken over. Where that cannot be proved, its journalled
        blocks are reflinked or copied into a directory of our own and the foreign one is left alone.

        Raises:
            LockedError: somebody (perhaps this very process) is downloading the file now.
            DiskError: the disk is full, read-only or failing.
        """
        tiling = Tiling(size=size, block_size=block_size)
        disk.make_dirs(area / "partial")
        folder, hold, foreign = settle(disk, area, tiling, digest.key)
        self = cls(disk, folder, hold, digest, tiling)
        try:
            self._load()
            for other in foreign:
                self._take_from(other)
        except BaseException:
            self._abandon()
            raise
        return self

    # -- opening

    def _load(self) -> None:
        block_map, valid = read_journal(self._folder, self.tiling, self.digest.key)
        if valid == 0:
            self._disk.unlink(self._folder / "journal", missing_ok=True)
            self._disk.unlink(self.path, missing_ok=True)
            self._data = self._disk.create(self.path)
            try:
                self._disk.preallocate(self._data, self.tiling.size)
            except DiskError:
                self._disk.unlink(self.path, missing_ok=True)  # ext4 keeps what it could reserve: the disk stays full
                raise
            self._rewrite_journal({}, durable=False)
            # The names, all the way up: `sync` later makes the bytes durable, and they must be found.
            for folder in (self._folder, self._folder.parent, self._folder.parent.parent):
                self._disk.fsync_dir(folder)
            return
        self._data = self._disk.open_rw(self.path)
        self._journal = self._disk.open_rw(self._folder / "journal", append=True)
        self.landed = block_map
        self._maybe_unsynced = bool(block_map.hashes)
        if self._leftovers.bad and self._leftovers.blocks:
            self.refuse_leftovers()  # a run that found them bad did not come to its end
        if os.fstat(self._journal).st_size != valid:  # a torn record: what is appended behind it would be lost
            self._disk.truncate(self._journal, valid)

    def _take_from(self, folder: Path) -> None:
        """Copy the blocks that a foreign partial has and ours has not."""
        theirs, _ = read_journal(folder, self.tiling, self.digest.key)
        marks = Marks(self._disk, folder / "leftovers")
        if marks.blocks or marks.bad:
            self._leftovers.add(marks.blocks, bad=marks.bad)
        if not marks.bad:
            self.take_over(folder / "data", theirs.hashes)

    def take_over(self, data: Path, hashes: Mapping[int, bytes]) -> int:
        """Take blocks from another file of this size, those that are not here yet; return their bytes.

        Args:
            data: is read only; nothing is taken where it cannot be read.
            hashes: xxh3_128 of each block by index. A block is hashed on the way, or, where the file was reflinked,
                by the pass that resumes.
        """
        before = self.landed.landed
        wanted = {index: found for index, found in hashes.items() if index not in self.landed.hashes}
        if not wanted or self._data is None:
            return 0
        try:
            source = os.open(data, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            fits = not self.landed.hashes and os.fstat(source).st_size == self.tiling.size
            if fits and self._disk.clone_into(source, self._data):
                # Later writes to the source do not reach a reflink; what is torn is seen by the resuming pass.
                for index, found in wanted.items():
                    self.record(index, found)
            else:
                self._copy_blocks(source, wanted)
        except OSError:
            pass  # they are unreadable: their bytes are fetched again
        finally:
            os.close(source)
        return self.landed.landed - before

    def _copy_blocks(self, source: int, wanted: Mapping[int, bytes]) -> None:
        for index, found in sorted(wanted.items()):
            block = self.tiling.block(index)
            data = os.pread(source, len(block), block.start)
            if len(data) == len(block) and xxhash.xxh3_128_digest(data) == found:
                self.write(data, block.start)
                self.record(index, found)

    # -- leftovers of others

    @property
    def adopted(self) -> set[int]:
        """Blocks that came from a leftover of somebody else: the first to doubt where the whole digest differs."""
        return self._leftovers.blocks & set(self.landed.hashes)

    @property
    def takes_leftovers(self) -> bool:
        """False where leftovers were found bad before."""
        return not self._leftovers.bad

    def adopt(self, leftover: Leftover) -> int:
        """Copy the whole blocks of a leftover that are not here yet; return their bytes.

        Their records say what lies on this disk, as all do; that they came from elsewhere is noted, durably, first.
        """
        wanted = [i for i in whole_blocks(self.tiling, leftover.ranges) if i not in self.landed.hashes]
        if not wanted or not self.takes_leftovers:
            return 0
        try:
            source = os.open(leftover.where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return 0
        copied = 0
        try:
            self._leftovers.add(wanted)
            for index in wanted:
                block = self.tiling.block(index)
                data = os.pread(source, len(block), block.start)
                if len(data) < len(block):
                    break
                self.write(data, block.start)
                self.record(index, xxhash.xxh3_128_digest(data))
                copied += len(data)
        except OSError:
            pass  # it cannot be read any further
        finally:
            os.close(source)
        return copied

    def refuse_leftovers(self) -> None:
        """Forget the blocks of leftovers, durably, and take none again."""
        self._leftovers.add((), bad=True)
        self.drop(self._leftovers.blocks)
        self._leftovers.clear()

    def _rewrite_journal(self, hashes: dict[int, bytes], *, durable: bool = True) -> None:
        """Replace the journal by one that vouches for `hashes` alone."""
        records = (encode_record(self.tiling, self.digest.key, index, found) for index, found in hashes.items())
        raw = encode_header(self.tiling, self.digest.key) + b"".join(records)
        self._disk.write_file(self._folder / "journal", raw, durable=durable)
        previous, self._journal = self._journal, self._disk.open_rw(self._folder / "journal", append=True)
        if previous is not None:
            self._disk.close(previous)

    # -- bytes

    def read_into(self, buf: memoryview, offset: int) -> int:
        """Fill `buf` from `offset` and return how many bytes came; fewer only at the file's end."""
        done = 0
        try:
            while done < len(buf):
                count = os.preadv(self._open_data(), [buf[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise DiskError(f"cannot read `{self.path}`: {error.strerror}") from error
        return done

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Write bytes of a block that has not been recorded yet."""
        if self._broken is not None:
            raise self._broken
        self._disk.write_at(self._open_data(), data, offset)

    def write_past_cache(self, data: memoryview, offset: int) -> None:
        """Write them past the page cache where that is possible and pays: nobody is going to read them soon.

        Args:
            data: begins on a page of memory.
            offset: bytes.
        """
        if self._broken is not None or not self._direct.write(data, offset):
            self.write(data, offset)

    def record(self, index: int, block_hash: bytes) -> None:
        """Note that the block's bytes are written and have this xxh3_128; a second record of a block is ignored."""
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if index in self.landed.hashes:
                return
            self.tiling.block(index)  # an index that the tiling does not have is a bug
            journal = self._open_journal()
            end = os.fstat(journal).st_size
            try:
                self._disk.append(journal, encode_record(self.tiling, self.digest.key, index, block_hash))
            except DiskError:
                self._disk.truncate(journal, end)  # half a record would hide all that follow
                raise
            self.landed.hashes[index] = block_hash
            self._unsynced.add(index)

    def drop(self, indexes: Iterable[int]) -> None:
        """Forget blocks whose bytes do not match, durably: no later run trusts them."""
        with self._lock:
            self._drop(indexes)

    def _drop(self, indexes: Iterable[int]) -> None:
        gone = {index for index in indexes if index in self.landed.hashes}
        if not gone:
            return
        for index in gone:
            del self.landed.hashes[index]
        self._unsynced -= gone
        self._rewrite_journal(self.landed.hashes)

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of blocks that landed since the last `sync`: what a power cut could take."""
        with self._lock:
            return sum(len(self.tiling.block(index)) for index in self._unsynced)

    def sync(self) -> None:
        """Make what landed survive a power cut, also before `open`: the data, then the journal.

        Raises:
            DiskError: the system could not write. The blocks since the last sync are dropped, because the kernel
                may show their bytes and never write them; every further write fails.
        """
        with self._syncing:
            with self._lock:
                if self._broken is not None:
                    raise self._broken
                pending, self._unsynced = self._unsynced, set()
            if not pending and not self._maybe_unsynced:
                return
            self._maybe_unsynced = False
            try:
                self._disk.fsync(self._open_data())
                self._disk.fsync(self._open_journal())
            except DiskError as error:
                self._fail(error, pending)
                raise

    def _fail(self, error: DiskError, pending: set[int]) -> None:
        with self._lock:
            self._broken = error
            try:
                self._drop(pending | self._unsynced)
            except DiskError:
                # Not even the shortened journal could be written: without any, all is fetched again. Where it cannot
                # be removed either, its records still vouch by the hashes of bytes, and lost bytes fail theirs.
                self.landed.hashes.clear()
                with suppress(DiskError):
                    self._disk.unlink(self._folder / "journal", missing_ok=True)

    def _open_data(self) -> int:
        if self._data is None:
            raise ValueError("the partial is closed")
        return self._data

    def _open_journal(self) -> int:
        if self._journal is None:
            raise ValueError("the partial is closed")
        return self._journal

    # -- the end

    def close(self, *, sync: bool = True) -> None:
        """Keep everything for a later run, and let the next owner in. Closing twice is harmless.

        Args:
            sync: False where the same process goes on at once: a power cut until then costs what was written.
        """
        try:
            if sync and self._data is not None and self._broken is None:
                self.sync()
        finally:
            self._abandon()

    def _abandon(self) -> None:
        try:
            self._close_files()
        finally:
            self._hold.release()

    def _close_files(self) -> None:
        self._direct.close()
        data, self._data = self._data, None
        journal, self._journal = self._journal, None
        for fd in (data, journal):
            if fd is not None:
                self._disk.close(fd)

    def seal(self) -> Path:
        """Sync the whole file, close every writable descriptor and return the data's path, ready to be renamed.

        The directory stays ours until `discard`.
        """
        if self.landed.missing():
            raise ValueError("not every block landed")
        if self._broken is not None:
            raise self._broken
        with self._syncing:
            try:
                self._disk.fsync(self._open_data())
            except DiskError as error:
                self._fail(error, set())
                raise
            self._close_files()
        return self.path

    def discard(self) -> None:
        """Remove the directory and what is left in it; also after publishing."""
        try:
            self._close_files()
            gone = self._folder.parent / f"{GONE}{secrets.token_hex(8)}"
            try:
                self._disk.rename(self._folder, gone)  # at once, so that nobody claims what is going away
            except DiskError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
            self._disk.remove_tree(gone)
            self._discard_orphans()
        finally:
            self._hold.drop()

    def _discard_orphans(self) -> None:
        """Remove what dead owners left under the same digest: it is of no use any more."""
        me = myself()
        for folder in candidates(self._folder.parent.parent, self.digest.key):
            remove_dead(self._disk, folder, me)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
