"""Tiling of a file into blocks and the journal's records; reading and writing them is left to `store.partial`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash

MiB = 1 << 20
# One journal record and at most one lost block a connection: small enough to repair cheaply, large enough that
# a record and a request cost nothing beside the bytes (`DESIGN`, On disk).
BLOCK_SIZE = 8 * MiB


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """A half-open range `[start, stop)` of one file, in bytes."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a file of `size` bytes is cut: blocks of `block_size`, the last one shorter."""

    size: int
    block_size: int = BLOCK_SIZE

    @property
    def count(self) -> int:
        """Number of blocks; an empty file has none."""
        return -(-self.size // self.block_size)

    def block(self, index: int) -> Block:
        """Return the block with this index."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        start = index * self.block_size
        return Block(start, min(start + self.block_size, self.size))

    def spans(self, indexes: Iterable[int]) -> Iterator[Block]:
        """Yield ascending block indexes as ranges, neighbours merged."""
        first = last = -1
        for index in indexes:
            if first >= 0 and index == last + 1:
                last = index
                continue
            if first >= 0:
                yield Block(self.block(first).start, self.block(last).stop)
            first = last = index
        if first >= 0:
            yield Block(self.block(first).start, self.block(last).stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMap:
    """The xxh3_128 (16 bytes) of each landed block, by index."""

    tiling: Tiling
    hashes: dict[int, bytes]

    def missing(self) -> tuple[int, ...]:
        """Return the indexes of the blocks still to fetch, ascending; an empty file has none."""
        return tuple(i for i in range(self.tiling.count) if i not in self.hashes)

    @property
    def landed(self) -> int:
        """Bytes that journal records vouch for."""
        # A copy of the keys: in a partial's live map, blocks land while this sums.
        return sum(len(self.tiling.block(i)) for i in tuple(self.hashes))


# The journal: a header, then a record a block, each with its own checksum, so that a torn or foreign tail is
# seen. A record vouches by the block's hash, therefore data and journal need no ordering between them.
_MAGIC = b"fvjrnl1\0"
_HEADER = struct.Struct("<8sQQ64s8s")  # magic, size, block size, digest key's xxh3 text, checksum
_RECORD = struct.Struct("<Q16s8s")  # index, xxh3_128, checksum
HEADER_SIZE = _HEADER.size
RECORD_SIZE = _RECORD.size


def _sealed(body: bytes, salt: bytes) -> bytes:
    return body + xxhash.xxh3_64_digest(salt + body)


def _salt(tiling: Tiling, digest_key: str) -> bytes:
    return xxhash.xxh3_64_digest(struct.pack("<QQ", tiling.size, tiling.block_size) + digest_key.encode())


def encode_header(tiling: Tiling, digest_key: str) -> bytes:
    """Return the journal's first bytes; they bind it to one size, one block size and one digest."""
    name = xxhash.xxh3_128_hexdigest(digest_key.encode()).encode().ljust(64, b"\0")
    return _sealed(struct.pack("<8sQQ64s", _MAGIC, tiling.size, tiling.block_size, name), b"")


def encode_record(tiling: Tiling, digest_key: str, index: int, block_hash: bytes) -> bytes:
    """Return the record which says that block `index` landed with this xxh3_128 (16 bytes)."""
    return _sealed(struct.pack("<Q16s", index, block_hash), _salt(tiling, digest_key))


def decode_journal(raw: bytes, tiling: Tiling, digest_key: str) -> tuple[BlockMap, int]:
    """Return what the journal vouches for, and how many of its bytes are valid.

    A journal of another file, size, block size or version vouches for nothing (0 valid bytes). Reading stops
    at the first torn or damaged record; a later record for the same block replaces an earlier one.
    """
    hashes: dict[int, bytes] = {}
    block_map = BlockMap(tiling=tiling, hashes=hashes)
    if raw[:HEADER_SIZE] != encode_header(tiling, digest_key):
        return block_map, 0
    salt = _salt(tiling, digest_key)
    valid = HEADER_SIZE
    for offset in range(HEADER_SIZE, len(raw) - RECORD_SIZE + 1, RECORD_SIZE):
        body, checksum = (
            raw[offset : offset + RECORD_SIZE - 8],
            raw[offset + RECORD_SIZE - 8 : offset + RECORD_SIZE],
        )
        index, block_hash = struct.unpack("<Q16s", body)
        if checksum != xxhash.xxh3_64_digest(salt + body) or index >= tiling.count:
            break
        hashes[index] = block_hash
        valid = offset + RECORD_SIZE
    return block_map, valid
