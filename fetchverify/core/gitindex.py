"""Git's index: new stat data for some entries, every other byte as it was; reading and locking is left to `store`.

Git believes an entry to be clean as long as its stat data are those of the file. For files whose content was proved
against the pointer that the index holds, writing them here is all that is needed: asking git to look (`git status`,
`git update-index --refresh`) runs git-lfs's clean filter, which reads each file again and copies it into the store.

Patched in place rather than rewritten: extensions (cached trees, untracked files, fsmonitor), sparse directories,
path compression and SHA-256 repos stay as git wrote them.

Source: git 2.39 `Documentation/gitformat-index.txt`, `read-cache.c`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

_STAT = struct.Struct(">10I")
_FLAGS = struct.Struct(">H")
_HEADER = struct.Struct(">4sII")
_EXTENDED = 0x4000
_MASK = 0xFFFFFFFF
_HASHES = {20: hashlib.sha1, 32: hashlib.sha256}


class ForeignIndexError(ValueError):
    """An index that is not as we know it; git itself must write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatData:
    """What `lstat` says of a file, as far as the index keeps it."""

    ctime_ns: int
    mtime_ns: int
    device: int
    inode: int
    uid: int
    gid: int
    size: int

    def packed(self, mode: int) -> bytes:
        """Return the entry's first 40 bytes; the mode is the entry's own."""
        seconds, nanoseconds = divmod(self.ctime_ns, 1_000_000_000)
        modified, modified_ns = divmod(self.mtime_ns, 1_000_000_000)
        size = self.size & _MASK
        if not size and self.size:
            # 0 means "look at the content"; git 2.43 `statinfo.c::munge_st_size` writes this for multiples of 4 GiB.
            size = 0x80000000
        fields = (seconds, nanoseconds, modified, modified_ns, self.device, self.inode, mode, self.uid, self.gid, size)
        return _STAT.pack(*(field & _MASK for field in fields))


def with_stats(
    index: bytes, stats: Mapping[bytes, tuple[str, StatData]], *, racy_from_s: int, id_bytes: int = 20
) -> bytes:
    """Return the index with these entries' stat data; the same bytes where nothing differs.

    Git looks into files that are as young as the index, because they may have changed after it was written without
    changing their stat data. A younger index would end that: so such entries are marked to be looked into, as git
    itself does (`read-cache.c::ce_smudge_racily_clean_entry`).

    Args:
        index: the whole file.
        stats: by path, the object id (hex) that the entry must still have, and its file's data. Entries that are
            absent or hold another object are left alone.
        racy_from_s: the index's own time, in whole seconds.
        id_bytes: length of an object id: 20, or 32 in a SHA-256 repo.

    Raises:
        ForeignIndexError: a version, a checksum or a split (`core.splitIndex`) that is not understood.
    """
    if len(index) < _HEADER.size + id_bytes:
        raise ForeignIndexError("too short")
    signature, version, count = _HEADER.unpack_from(index)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise ForeignIndexError(f"signature {signature!r}, version {version}")
    told = index[-id_bytes:]
    checked = any(told)  # `index.skipHash` leaves zeros
    if checked and _HASHES[id_bytes](index[:-id_bytes]).digest() != told:
        raise ForeignIndexError("its checksum is wrong")
    patched = bytearray(index[:-id_bytes])
    try:
        at, racy = _patch_entries(patched, version, count, stats, racy_from_s, id_bytes)
        if b"link" in _extensions(patched, at):
            raise ForeignIndexError("it is split")
    except (struct.error, IndexError) as error:
        raise ForeignIndexError(str(error)) from error
    if patched == index[:-id_bytes]:
        return index
    for start in racy:
        patched[start + _STAT.size - 4 : start + _STAT.size] = bytes(4)
    return bytes(patched) + (_HASHES[id_bytes](patched).digest() if checked else told)


def _patch_entries(
    index: bytearray,
    version: int,
    count: int,
    stats: Mapping[bytes, tuple[str, StatData]],
    racy_from_s: int,
    id_bytes: int,
) -> tuple[int, list[int]]:
    """Patch the entries; return where the extensions begin, and where entries do that were not patched and are racy."""
    at, path = _HEADER.size, b""
    racy = []
    for _ in range(count):
        start = at
        fields = _STAT.unpack_from(index, at)
        object_id = bytes(index[at + _STAT.size : at + _STAT.size + id_bytes])
        at += _STAT.size + id_bytes
        (flags,) = _FLAGS.unpack_from(index, at)
        at += _FLAGS.size + (2 if flags & _EXTENDED else 0)
        if version == 4:
            dropped, at = _varint(index, at)
            end = _end_of_name(index, at)
            path = path[: len(path) - dropped] + bytes(index[at:end])
            at = end + 1
        else:
            end = _end_of_name(index, at)
            path = bytes(index[at:end])
            # Padded with 1 to 8 NULs to a multiple of 8.
            at = start + (end - start + 8) // 8 * 8
        found = stats.get(path)
        staged = flags >> 12 & 3  # sides of a conflict
        if found is not None and not staged and found[0] == object_id.hex():
            index[start : start + _STAT.size] = found[1].packed(fields[6])
        elif fields[2] >= racy_from_s:
            racy.append(start)
    return at, racy


def _end_of_name(index: bytearray, at: int) -> int:
    end = index.find(0, at)
    if end < 0:
        raise ForeignIndexError("a name without an end")
    return end


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """Return a number and where it ends. Source: git `varint.c::decode_varint` (each further byte adds one)."""
    byte = data[at]
    value = byte & 127
    while byte & 128:
        at += 1
        byte = data[at]
        value = (value + 1 << 7) + (byte & 127)
    return value, at + 1


def _extensions(index: bytearray, at: int) -> set[bytes]:
    found = set()
    while at < len(index):
        name, size = struct.unpack_from(">4sI", index, at)
        found.add(name)
        at += 8 + size
    if at != len(index):
        raise ForeignIndexError("its extensions do not end where the file does")
    return found
