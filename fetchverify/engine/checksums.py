"""Checksums that a file carries itself: CRC32 of each member of torch's zip, also within the files of a checkpoint."""

from __future__ import annotations

import zlib

from fetchverify.core.diagnosis.facts import Flaw
from fetchverify.formats import ziptable
from fetchverify.formats.source import Malformed, Source

_PIECE = 1 << 20


class Part:
    """A range of a source as a source of its own."""

    def __init__(self, whole: Source, start: int, length: int) -> None:
        self._whole = whole
        self._start = start
        self._length = length

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._length

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of `[start, stop)`."""
        return self._whole.read(self._start + start, self._start + min(stop, self._length))


def crc_flaw(source: Source) -> Flaw | None:
    """Return the first member whose bytes do not have its CRC32; None where all have.

    Files written with CRCs turned off carry zeros in all places: then nothing is known.
    """
    try:
        members = ziptable.read_table(source)
        if not any(member.crc32 for member in members.values()):
            return None
        for member in members.values():
            if member.stored and _crc32(source, *ziptable.data_range(source, member)) != member.crc32:
                return Flaw("FV118", f"the member `{member.name[:120]}` does not have its CRC32")
    except Malformed as error:
        return error.flaw
    return None


def _crc32(source: Source, start: int, stop: int) -> int:
    state = 0
    for at in range(start, stop, _PIECE):
        state = zlib.crc32(source.read(at, min(at + _PIECE, stop)), state)
    return state
