"""Bytes of a file, in memory, on disk or made up on the fly, with their digests; repos are in `world`."""

import functools
import hashlib
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

TILE = MiB
STAMP = 64 * KiB
DECLARED_ABOVE = 4 * GiB
"""Seeded files larger than this do not hash their bytes: their sha256 is declared, derived from the seed."""

_HASH_STEP = MiB


class Content(ABC):
    """Immutable bytes of a known size that can be read at any offset.

    Digests are computed on first use and kept. `path` names a plain file holding exactly these bytes, if there
    is one, so that the wire can use `sendfile`.
    """

    path: Path | None = None
    _sha256: str | None = None
    _git_sha1: str | None = None

    @property
    @abstractmethod
    def size(self) -> int:
        """Length in bytes."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A cheap string that differs when the bytes differ; commit ids are made of it."""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`; both lie within the size."""

    def pieces(self, start: int, stop: int, step: int = _HASH_STEP) -> Iterator[bytes]:
        """Yield the bytes `[start, stop)` in order, `step` at a time."""
        for at in range(start, stop, step):
            yield self.read(at, min(at + step, stop))

    def sha256(self) -> str:
        """Return the sha256 of the bytes (64 hex)."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for piece in self.pieces(0, self.size):
                digest.update(piece)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def git_sha1(self) -> str:
        """Return the id git gives these bytes as a blob (40 hex)."""
        if self._git_sha1 is None:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
            for piece in self.pieces(0, self.size):
                digest.update(piece)
            self._git_sha1 = digest.hexdigest()
        return self._git_sha1


class InMemory(Content):
    """Bytes held in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    @property
    def fingerprint(self) -> str:
        """The git blob id."""
        return self.git_sha1()

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`."""
        return self._data[start:stop]


class OnDisk(Content):
    """A plain file; its size is read once, so it must not change while it is served."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._stat = self.path.stat()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._stat.st_size

    @property
    def fingerprint(self) -> str:
        """Name, size and mtime: hashing a 100 GB root at start would take minutes."""
        return f"disk:{self.path.name}:{self._stat.st_size}:{self._stat.st_mtime_ns}"

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`."""
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), stop - start, start)

    def pieces(self, start: int, stop: int, step: int = _HASH_STEP) -> Iterator[bytes]:
        """Yield the bytes `[start, stop)` in order, through one open file."""
        with self.path.open("rb", buffering=0) as file:
            for at in range(start, stop, step):
                yield os.pread(file.fileno(), min(step, stop - at), at)


class Seeded(Content):
    """Pseudo-random bytes of any size that cost neither disk nor memory.

    A 1 MiB tile made of the seed repeats; the first 8 bytes of each 64 KiB carry their own offset, so that no two
    blocks of a file are equal and a block at the wrong place shows. Above `DECLARED_ABOVE` (or with
    `declared=True`) the sha256 is not that of the bytes but derived from seed and size: such a file can be listed
    and served, never verified.
    """

    def __init__(self, size: int, seed: str = "", *, declared: bool | None = None) -> None:
        self._size = size
        self.seed = seed
        self.declared = size > DECLARED_ABOVE if declared is None else declared
        self._salt = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    @property
    def fingerprint(self) -> str:
        """Seed and size."""
        return f"seeded:{self._size}:{self.seed}"

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`."""
        tile = _tile(self.seed, _tile_size(self._size))
        out: list[bytes | memoryview] = []
        at = start
        while at < stop:
            block = at - at % STAMP
            end = min(block + STAMP, stop)
            if at < block + 8:
                stamp = struct.pack("<Q", block ^ self._salt)[at - block : end - block]
                out.append(stamp)
                at += len(stamp)
            if at < end:
                out.append(tile[at % TILE : at % TILE + end - at])
                at = end
        return b"".join(out)

    def sha256(self) -> str:
        """Return the sha256 of the bytes, or the declared one."""
        if self.declared:
            return hashlib.sha256(f"declared:{self.fingerprint}".encode()).hexdigest()
        return super().sha256()

    def git_sha1(self) -> str:
        """Return the git blob id of the bytes, or the declared one."""
        if self.declared:
            return hashlib.sha1(f"declared:{self.fingerprint}".encode(), usedforsecurity=False).hexdigest()
        return super().git_sha1()


def _tile_size(size: int) -> int:
    """Return how much of the tile a file of this size needs: a power of two, so that few tiles are kept."""
    return TILE if size >= TILE else max(256, 1 << max(size - 1, 0).bit_length())


@functools.lru_cache(maxsize=64)
def _tile(seed: str, size: int) -> memoryview:
    # SHAKE is an extendable output: a shorter tile is a prefix of the longer one, on every platform alike.
    return memoryview(hashlib.shake_256(seed.encode()).digest(size))


class Flipped(Content):
    """Another content with one byte changed, which is what a bad disk or a bad proxy makes of it."""

    def __init__(self, inner: Content, offset: int, mask: int = 0x01) -> None:
        self._inner = inner
        self._offset = offset
        self._mask = mask

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._inner.size

    @property
    def fingerprint(self) -> str:
        """The inner one and the flip."""
        return f"flipped:{self._offset}:{self._mask}:{self._inner.fingerprint}"

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, flipped where they cover the offset."""
        data = self._inner.read(start, stop)
        if not start <= self._offset < stop:
            return data
        flipped = bytearray(data)
        flipped[self._offset - start] ^= self._mask
        return bytes(flipped)


class Resized(Content):
    """Another content cut or padded with zeros to a new size."""

    def __init__(self, inner: Content, size: int) -> None:
        self._inner = inner
        self._size = size

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    @property
    def fingerprint(self) -> str:
        """The inner one and the new size."""
        return f"resized:{self._size}:{self._inner.fingerprint}"

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, zeros beyond the inner size."""
        inner_size = self._inner.size
        data = self._inner.read(min(start, inner_size), min(stop, inner_size)) if start < inner_size else b""
        return data + bytes(stop - start - len(data))


def as_content(value: "Content | bytes | str | Path") -> Content:
    """Return `value` as a content: bytes as they are, text as UTF-8, a `Path` as the file it names."""
    match value:
        case Content():
            return value
        case bytes():
            return InMemory(value)
        case str():
            return InMemory(value.encode())
        case Path():
            return OnDisk(value)
