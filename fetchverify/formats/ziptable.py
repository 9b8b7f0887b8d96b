"""The table of contents of a zip archive, Zip64 too; members are neither unpacked nor copied.

Our own and not `zipfile`, which reads a table of any size. Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fetchverify.formats.source import Malformed, Source, read_exactly

MOST_TABLE_BYTES = 6 << 20
MOST_MEMBERS = 40_000

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 65535


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive; `at` is where its local header begins, sizes are bytes."""

    name: str
    stored: bool
    crc32: int
    packed_size: int
    size: int
    at: int


def read_table(source: Source) -> dict[str, Member]:
    """Return the members by name.

    Raises:
        Malformed: this is no whole zip archive.
    """
    count, size, start = _table_place(source)
    if size > MOST_TABLE_BYTES or count > MOST_MEMBERS:
        raise Malformed("FV125", f"its table of contents has {size:,} bytes for {count:,} members")
    raw = read_exactly(source, start, start + size, what="the table of contents", code="FV123")
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(raw):
            raise Malformed("FV123", "its table of contents ends within an entry")
        member, at = _member(raw, at)
        if member.name in members:
            raise Malformed("FV123", "its table of contents names one member twice")
        members[member.name] = member
        if member.at + member.packed_size > source.size:
            raise Malformed("FV108", f"the member `{member.name[:120]}` ends behind the file")
    return members


def data_range(source: Source, member: Member) -> tuple[int, int]:
    """Return where the packed bytes of a member lie, half-open.

    Raises:
        Malformed: its local header is not there, or they end behind the file.
    """
    raw = read_exactly(source, member.at, member.at + _LOCAL.size, what=f"`{member.name[:120]}`", code="FV108")
    fields = _LOCAL.unpack(raw)
    if fields[0] != b"PK\x03\x04":
        raise Malformed("FV123", f"the member `{member.name[:120]}` does not begin where the table of contents says")
    start = member.at + _LOCAL.size + fields[9] + fields[10]
    if start + member.packed_size > source.size:
        raise Malformed("FV108", f"the member `{member.name[:120]}` ends behind the file")
    return start, start + member.packed_size


def _table_place(source: Source) -> tuple[int, int, int]:
    """Return how many members there are, the table's size and where it begins."""
    tail_start = max(0, source.size - _END.size - _LONGEST_COMMENT)
    tail = source.read(tail_start, source.size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise Malformed("FV108", "the archive's table of contents, which stands at its end, is missing")
    _, _, _, _, count, size, start, _ = _END.unpack_from(tail, at)
    if 0xFFFF in {count} or 0xFFFFFFFF in {size, start}:
        place = tail_start + at - _END64_LOCATOR.size
        if place >= 0:
            _, _, end_at, _ = _END64_LOCATOR.unpack(read_exactly(source, place, place + 20, what="Zip64", code="FV123"))
            raw = read_exactly(source, end_at, end_at + _END64.size, what="Zip64", code="FV123")
            fields = _END64.unpack(raw)
            if fields[0] != b"PK\x06\x06":
                raise Malformed("FV123", "its Zip64 record is not where it should be")
            count, size, start = fields[7], fields[8], fields[9]
    return count, size, start


def _member(raw: bytes, at: int) -> tuple[Member, int]:
    fields = _ENTRY.unpack_from(raw, at)
    if fields[0] != b"PK\x01\x02":
        raise Malformed("FV123", "its table of contents is damaged")
    method, crc32, packed, size = fields[4], fields[7], fields[8], fields[9]
    name_size, extra_size, comment_size = fields[10], fields[11], fields[12]
    header_at = fields[16]
    name_at = at + _ENTRY.size
    extra = raw[name_at + name_size : name_at + name_size + extra_size]
    size, packed, header_at = _widened(extra, size, packed, header_at)
    name = raw[name_at : name_at + name_size].decode("utf-8", "replace")
    member = Member(name, method == 0, crc32, packed, size, header_at)
    return member, name_at + name_size + extra_size + comment_size


def _widened(extra: bytes, *values: int) -> tuple[int, ...]:
    """Return size, packed size and place, from the Zip64 field where 32 bits were too few."""
    if 0xFFFFFFFF not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
            out = []
            for value in values:
                if value == 0xFFFFFFFF and len(wide) >= 8:
                    out.append(int.from_bytes(wide[:8], "little"))
                    wide = wide[8:]
                else:
                    out.append(value)
            return tuple(out)
        at += 4 + length
    return values
