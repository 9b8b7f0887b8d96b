"""What others left of a download: which blocks of it may be whole; finding it is left to `store.leftovers`."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fetchverify.core.blocks import Tiling

Ranges = tuple[tuple[int, int], ...]  # half-open, in bytes, ascending

LONGEST_CONTROL = 64 << 20  # a bit a piece of at least 1 KiB: half a TB of the smallest pieces
_MOST_PIECES = LONGEST_CONTROL * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file that somebody else began to download; nothing in it is proved.

    Attributes:
        where: the file; read only.
        whose: who left it, for people.
        ranges: which of its bytes were written, as far as can be told.
        control: notes of its downloader beside it, of no use once the file is whole.
    """

    where: Path
    whose: str
    ranges: Ranges
    control: Path | None = None


def parse_aria2(raw: bytes, size: int) -> Ranges | None:
    """Return which bytes aria2 has, as its control file says; None where that is none, or of a file of another size.

    Pieces under way are left out.

    Source: aria2 1.36 manual, "Control File (*.aria2) Format".
    """
    if len(raw) < 10 or raw[:2] not in (b"\0\0", b"\0\1"):
        return None
    order = ">" if raw[1] else "<"  # version 0 is in the order of the machine that wrote it
    (hash_length,) = struct.unpack_from(f"{order}I", raw, 6)
    at = 10 + hash_length
    if hash_length > 64 or len(raw) < at + 24:
        return None
    piece, total, _, length = struct.unpack_from(f"{order}IQQI", raw, at)
    bits = raw[at + 24 : at + 24 + length]
    if not piece or total != size or len(bits) != length or not 0 < -(-size // piece) <= min(length * 8, _MOST_PIECES):
        return None
    found: list[tuple[int, int]] = []
    for index in range(-(-size // piece)):
        if bits[index >> 3] & (0x80 >> (index & 7)):
            start, stop = index * piece, min((index + 1) * piece, size)
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
    return tuple(found)


def meet(one: Ranges, other: Ranges) -> Ranges:
    """Return what lies in both."""
    found, mine, theirs = [], list(one), list(other)
    while mine and theirs:
        start, stop = max(mine[0][0], theirs[0][0]), min(mine[0][1], theirs[0][1])
        if start < stop:
            found.append((start, stop))
        (mine if mine[0][1] < theirs[0][1] else theirs).pop(0)
    return tuple(found)


def whole_blocks(tiling: Tiling, ranges: Ranges) -> Iterable[int]:
    """Yield the indexes of the blocks that lie in these ranges with all their bytes."""
    for start, stop in ranges:
        index = -(-start // tiling.block_size)
        while index < tiling.count and tiling.block(index).stop <= stop:
            yield index
            index += 1
