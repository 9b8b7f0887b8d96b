"""Tilings cover each byte once; a journal never vouches for what was not recorded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.blocks import (
    HEADER_SIZE,
    RECORD_SIZE,
    BlockMap,
    Tiling,
    decode_journal,
    encode_header,
    encode_record,
)
from fetchverify.core.tickets import Tickets

KEY = "sha256-" + "ab" * 32
tilings = st.builds(Tiling, size=st.integers(0, 5000), block_size=st.integers(1, 600))


@given(tilings)
def test_blocks_tile_the_file(tiling: Tiling) -> None:
    blocks = [tiling.block(index) for index in range(tiling.count)]
    assert tiling.size == sum(map(len, blocks))
    assert [0, *(block.stop for block in blocks)][: len(blocks)] == [block.start for block in blocks]
    with pytest.raises(IndexError):
        tiling.block(tiling.count)


@given(tilings, st.data())
def test_spans_cover_just_the_blocks_asked_for(tiling: Tiling, data: st.DataObject) -> None:
    indexes = sorted(data.draw(st.sets(st.integers(0, max(0, tiling.count - 1)), max_size=tiling.count)))
    indexes = indexes if tiling.count else []
    covered = {byte for span in tiling.spans(indexes) for byte in range(span.start, span.stop)}
    assert {b for i in indexes for b in range(tiling.block(i).start, tiling.block(i).stop)} == covered


records = st.lists(st.tuples(st.integers(0, 7), st.binary(min_size=16, max_size=16)), max_size=12)


@given(records, st.integers(0, RECORD_SIZE - 1), st.binary(max_size=40))
def test_a_torn_or_foreign_tail_is_dropped(items: list[tuple[int, bytes]], torn: int, junk: bytes) -> None:
    """A power cut leaves any prefix of the last record, or blocks of zeros behind it."""
    tiling = Tiling(size=64, block_size=8)
    whole = encode_header(tiling, KEY) + b"".join(encode_record(tiling, KEY, i, h) for i, h in items)
    tail = encode_record(tiling, KEY, 3, bytes(16))[:torn]
    expected = (BlockMap(tiling=tiling, hashes=dict(items)), len(whole))
    assert expected == decode_journal(whole + tail, tiling, KEY)
    assert expected == decode_journal(whole + bytes(RECORD_SIZE), tiling, KEY)


@given(records, st.data())
def test_a_flipped_bit_ends_the_reading_where_it_is(items: list[tuple[int, bytes]], data: st.DataObject) -> None:
    tiling = Tiling(size=64, block_size=8)
    raw = bytearray(encode_header(tiling, KEY) + b"".join(encode_record(tiling, KEY, i, h) for i, h in items))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    good = 0 if at < HEADER_SIZE else (at - HEADER_SIZE) // RECORD_SIZE
    valid = 0 if at < HEADER_SIZE else HEADER_SIZE + good * RECORD_SIZE
    assert (BlockMap(tiling=tiling, hashes=dict(items[:good])), valid) == decode_journal(bytes(raw), tiling, KEY)


@pytest.mark.parametrize(
    ("tiling", "key"),
    [
        (Tiling(size=65, block_size=8), KEY),
        (Tiling(size=64, block_size=16), KEY),
        (Tiling(size=64, block_size=8), "git-sha1-" + "ab" * 20),
    ],
)
def test_a_journal_of_another_file_vouches_for_nothing(tiling: Tiling, key: str) -> None:
    """aria2 spliced two files of equal length into one because its control file holds no identity."""
    mine = Tiling(size=64, block_size=8)
    raw = encode_header(mine, KEY) + encode_record(mine, KEY, 0, bytes(16))
    assert (BlockMap(tiling=tiling, hashes={}), 0) == decode_journal(raw, tiling, key)


@given(st.sets(st.integers(0, 30)), st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=60))
def test_each_block_has_one_writer_and_none_is_forgotten(missing: set[int], turns: list[tuple[int, bool]]) -> None:
    tickets, out, landed = Tickets(missing), list[tuple[int, ...]](), set[int]()
    for most, lands in turns:
        taken = tickets.take(most)
        assert list(taken) == list(range(taken[0], taken[0] + len(taken))) if taken else True
        assert not set(taken) & (landed | {index for held in out for index in held})
        out.append(taken)
        for index in out.pop(0):
            if lands:
                tickets.landed(index)
                landed.add(index)
            else:
                tickets.give_back(index)
    assert tickets.done == (landed == missing)
