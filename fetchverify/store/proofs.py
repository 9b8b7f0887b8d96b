"""The ledger of what was verified, so that an unchanged file is not hashed twice; it may forget, but never lie.

A line says: the file with this device, inode, size and mtime had this digest. It is written only after the bytes it
speaks of are durable, because a power cut can take bytes and leave size and mtime standing.
"""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import Protocol, TypeAlias

import xxhash

from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import forbidden

_NAME = "proofs"
_BATCH = 256
# Below this a ledger is not worth rewriting, however stale.
_COMPACT_FROM = 4096
_ALGOS = {"sha256": 64, "git-sha1": 40}
_STATE = struct.Struct("<qq")  # size and mtime in ns
_INODE_BITS = 128  # ReFS has such long ones


class Stat(Protocol):
    """The part of an `os.stat_result` that tells whether a file is still the one that was proved."""

    @property
    def st_dev(self) -> int: ...  # noqa: D102

    @property
    def st_ino(self) -> int: ...  # noqa: D102

    @property
    def st_size(self) -> int: ...  # noqa: D102

    @property
    def st_mtime_ns(self) -> int: ...  # noqa: D102


# Which file a ledger was read from, and its state then: device, inode, size, mtime and ctime in ns.
Source: TypeAlias = tuple[int, int, int, int, int]


def source_of(area: Path) -> Source | None:
    """Return the state of the area's ledger, unread; None where there is none."""
    try:
        return _source(os.lstat(area / _NAME))
    except OSError:
        return None


def _source(seen: os.stat_result) -> Source:
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


# Keys and entries are packed: as tuples, those of 100,000 files would take 30 MiB instead of 18.
def _key(dev: int, inode: int, algo: str) -> int:
    return dev << _INODE_BITS + 1 | inode << 1 | (algo == "sha256")


def _entry(digest_hex: str, size: int, mtime_ns: int) -> bytes:
    """Return a digest and its file's state.

    Raises:
        ValueError: the digest is not hexadecimal, or a number is larger than any file system's.
    """
    try:
        return bytes.fromhex(digest_hex) + _STATE.pack(size, mtime_ns)
    except struct.error as error:
        raise ValueError(str(error)) from error


def _sealed(body: str) -> str:
    return f"{xxhash.xxh3_64_hexdigest(body.encode())} {body}\n"


class Proofs:
    """The ledger of one area. Thread-safe; several processes may append to the same file."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[int, bytes] = {}  # by `_key`, as `_entry`
        self._pending: list[str] = []
        self._torn = False
        self.source: Source | None = None
        """The file that says all that is known here; None where this object wrote to it, or knows more."""

    @classmethod
    def load(cls, disk: Disk, area: Path, *, compact: bool = True) -> Proofs:
        """Return the area's ledger; an absent or unreadable one is empty, damaged lines are skipped.

        Args:
            disk: the door.
            area: the folder that holds it.
            compact: rewrite it where most of it is stale.
        """
        self = cls(disk, area / _NAME)
        try:
            with self._path.open("rb") as file:
                # Before it is read: what is appended meanwhile makes it another state.
                self.source = _source(os.fstat(file.fileno()))
                text = file.read().decode("ascii", "replace")
        except OSError:
            return self
        lines = text.split("\n")
        self._torn = lines.pop() != ""  # what we append must not continue somebody's half line
        known = self._known
        digest = xxhash.xxh3_64_hexdigest
        for line in lines:
            # Sixteen hex digits, a space, the body: a line torn anywhere fails its checksum.
            body = line[17:]
            if digest(body.encode()) != line[:16]:
                continue
            try:
                algo, value, dev, inode, size, mtime_ns = body.split(" ")
                if algo not in _ALGOS:  # a later version's line
                    continue
                known[_key(int(dev), int(inode), algo)] = _entry(value, int(size), int(mtime_ns))
            except ValueError:  # likewise
                continue
        if compact and len(lines) > _COMPACT_FROM and len(lines) > 2 * len(known):
            self._compact()
        return self

    def _compact(self) -> None:
        lines = []
        for key, entry in self._known.items():
            algo = "sha256" if key & 1 else "git-sha1"
            size, mtime_ns = _STATE.unpack(entry[-_STATE.size :])
            dev, inode = key >> _INODE_BITS + 1, key >> 1 & (1 << _INODE_BITS) - 1
            lines.append(_sealed(f"{algo} {entry[: -_STATE.size].hex()} {dev} {inode} {size} {mtime_ns}"))
        try:
            # Whoever appends to the old file meanwhile loses that line: it costs one hash.
            self._disk.write_file(self._path, "".join(lines).encode())
        except DiskError:
            return  # a read-only cache is still worth reading
        self._torn, self.source = False, None

    def knows(self, digest: Digest, seen: Stat) -> bool:
        """Return True where this very inode, unchanged since, was proved to have the digest."""
        found = self._find(digest.algo, seen)
        return found is not None and found == _entry(digest.hex, seen.st_size, seen.st_mtime_ns)

    def disowns(self, digest: Digest, seen: Stat) -> bool:
        """Return True where this very inode was proved to have the digest, and changed since or was found bad."""
        found, now = self._find(digest.algo, seen), _entry(digest.hex, seen.st_size, seen.st_mtime_ns)
        return found is not None and found != now and found[: -_STATE.size] == now[: -_STATE.size]

    def recognizes(self, seen: Stat) -> bool:
        """Return True where this very inode, unchanged since, was proved to be some promised file."""
        state = _STATE.pack(seen.st_size, seen.st_mtime_ns)
        found = (self._find(algo, seen) for algo in _ALGOS)
        return any(entry is not None and entry.endswith(state) for entry in found)

    def _find(self, algo: str, seen: Stat) -> bytes | None:
        return self._known.get(_key(seen.st_dev, seen.st_ino, algo))

    def add(self, digest: Digest, what: Path | Stat, *, hashed: Stat | None = None) -> None:
        """Note that a file was proved.

        Args:
            digest: what its bytes were found to have.
            what: the file, which is synced first: somebody else may have written it a second ago. Or the state of a
                file whose bytes the caller knows to be durable.
            hashed: the file's state before it was hashed; where it changed since, nothing is noted.
        """
        if isinstance(what, Path):
            self._disk.fsync_path(what)
            try:
                what = what.stat()
            except OSError:
                return
        if hashed is not None and _identity(hashed) != _identity(what):
            return
        if len(digest.hex) != _ALGOS[digest.algo]:
            raise ValueError(digest.hex)
        with self._lock:
            entry = _entry(digest.hex, what.st_size, what.st_mtime_ns)
            if self._find(digest.algo, what) == entry:
                return
            self._known[_key(what.st_dev, what.st_ino, digest.algo)] = entry
            self.source = None
            fields = f"{digest.algo} {digest.hex} {what.st_dev} {what.st_ino} {what.st_size} {what.st_mtime_ns}"
            self._pending.append(_sealed(fields))
            if len(self._pending) >= _BATCH:
                self._try_to_flush()

    def forget(self, digest: Digest, seen: Stat) -> None:
        """Take back, in this run, what was noted of a file that proved to be bad after all."""
        with self._lock:
            self._known.pop(_key(seen.st_dev, seen.st_ino, digest.algo), None)
            self.source = None
            # A line that no file can match: it replaces the earlier one when the ledger is read.
            fields = f"{digest.algo} {digest.hex} {seen.st_dev} {seen.st_ino} -1 0"
            self._pending.append(_sealed(fields))
            self._flush()

    def flush(self) -> None:
        """Append what is new, in one write. Not synced: losing it costs a hash."""
        with self._lock:
            self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self._flush()
        except DiskError as error:
            if not forbidden(error):
                raise
            self._pending.clear()  # another user's ledger, or a read-only cache: the next run hashes again

    def _flush(self) -> None:
        if not self._pending:
            return
        data = ("\n" if self._torn else "") + "".join(self._pending)
        self._disk.make_dirs(self._path.parent)
        fd = self._disk.open_append(self._path)
        try:
            self._disk.append(fd, data.encode())
        finally:
            self._disk.close(fd)
        self._pending.clear()
        self._torn = False


def _identity(seen: Stat) -> tuple[int, int, int, int]:
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
