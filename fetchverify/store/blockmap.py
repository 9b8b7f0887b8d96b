"""The hashes of a proved file's blocks, kept after publishing: they say which blocks rotted, never that none did."""

from __future__ import annotations

from pathlib import Path

import xxhash

from fetchverify.core.blocks import (
    BLOCK_SIZE,
    BlockMap,
    Tiling,
    decode_journal,
    encode_header,
    encode_record,
)
from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import forbidden


def _path(area: Path, digest: Digest) -> Path:
    return area / "blocks" / digest.key


def block_map_bytes(digest: Digest, block_map: BlockMap) -> bytes:
    """Return a complete block map as it is stored: a journal in the blocks' order and a checksum over all of it."""
    tiling = block_map.tiling
    if block_map.missing():
        raise ValueError("only a complete block map is evidence")
    records = (encode_record(tiling, digest.key, index, block_map.hashes[index]) for index in range(tiling.count))
    body = encode_header(tiling, digest.key) + b"".join(records)
    return body + xxhash.xxh3_128_digest(body)


def keep_block_map(disk: Disk, area: Path, digest: Digest, block_map: BlockMap) -> None:
    """Store the block map of a file whose whole digest matched; only then is it evidence."""
    try:
        disk.make_dirs(area / "blocks")
        # Not synced: it carries its own checksum, and losing it costs only a finer repair.
        disk.write_file(_path(area, digest), block_map_bytes(digest, block_map), durable=False)
    except DiskError as error:
        if not forbidden(error):  # another user's folder: as though it was lost
            raise


def load_block_map(area: Path, digest: Digest, size: int, *, block_size: int = BLOCK_SIZE) -> BlockMap | None:
    """Return the stored block map, or None where there is none that is whole and belongs to this file."""
    try:
        raw = _path(area, digest).read_bytes()
    except OSError:
        return None
    body, checksum = raw[:-16], raw[-16:]
    if xxhash.xxh3_128_digest(body) != checksum:
        return None
    block_map, valid = decode_journal(body, Tiling(size=size, block_size=block_size), digest.key)
    return block_map if valid == len(body) and not block_map.missing() else None


def drop_block_map(disk: Disk, area: Path, digest: Digest) -> None:
    """Remove the stored block map."""
    disk.unlink(_path(area, digest), missing_ok=True)
