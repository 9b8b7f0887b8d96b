"""What others left: which blocks may be whole; control files are hostile."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.blocks import Tiling
from fetchverify.core.leftover import meet, parse_aria2, whole_blocks


def control(size: int, piece: int, bits: bytes, *, version: int = 1, info: bytes = b"") -> bytes:
    order = ">" if version else "<"
    head = struct.pack(">H", version) + bytes(4) + struct.pack(f"{order}I", len(info)) + info
    return head + struct.pack(f"{order}IQQI", piece, size, 0, len(bits)) + bits + struct.pack(f"{order}I", 0)


def test_pieces_become_ranges_and_neighbours_are_joined() -> None:
    assert ((0, 20), (30, 35)) == parse_aria2(control(35, 10, bytes([0b11010000])), 35)
    assert ((0, 10),) == parse_aria2(control(35, 10, bytes([0b10000000]), version=0, info=b"x" * 20), 35)
    assert () == parse_aria2(control(35, 10, bytes(1)), 35)


def test_what_speaks_of_another_file_or_is_cut_is_none() -> None:
    good = control(35, 10, bytes([0xFF]))
    assert parse_aria2(good, 36) is None
    assert parse_aria2(good[:20], 35) is None
    assert parse_aria2(control(35, 0, b"\xff"), 35) is None
    assert parse_aria2(control(10**15, 1, b"\xff"), 10**15) is None
    assert parse_aria2(b"", 35) is None


@given(st.binary(max_size=200), st.integers(0, 1000))
def test_no_control_file_breaks_the_parser(raw: bytes, size: int) -> None:
    for start, stop in parse_aria2(b"\0\1" + raw, size) or ():
        assert 0 <= start < stop <= size


def test_only_whole_blocks_count_and_the_last_may_be_short() -> None:
    tiling = Tiling(size=25, block_size=10)
    assert [0, 2] == list(whole_blocks(tiling, ((0, 15), (16, 25))))
    assert [] == list(whole_blocks(tiling, ((1, 10), (20, 24))))
    assert ((5, 8), (12, 15)) == meet(((0, 8), (12, 20)), ((5, 15),))
