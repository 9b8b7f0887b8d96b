"""A request for neighbouring blocks: what it may still lose to others, and when it makes room for the next."""

from __future__ import annotations

import time

from fetchverify.core.blocks import BLOCK_SIZE, MiB, Tiling
from fetchverify.engine.fetch import Segment

TILING = Tiling(size=4 * BLOCK_SIZE)


def test_room_is_made_once_that_much_before_the_end() -> None:
    made: list[int] = []
    segment = Segment((0, 1), TILING, start=0, whole=False, room_s=1.0, make_room=lambda: made.append(segment.received))
    segment.began = time.monotonic() - 3600.0  # so slow that the last second is a few KB
    while segment.received < segment.size:
        piece = min(MiB, segment.before_room or MiB, segment.size - segment.received)
        segment.arrived(piece)
    assert 1 == len(made)
    assert segment.size - 64 * 1024 < made[0] < segment.size, "not with the last byte, and not a piece of 1 MiB before"


def test_no_room_is_made_where_nobody_asked_or_one_stream_is_read() -> None:
    made: list[int] = []
    for whole, room_s in ((False, 0.0), (True, 1.0)):
        segment = Segment((0, 1), TILING, start=0, whole=whole, room_s=room_s, make_room=lambda: made.append(1))
        assert 0 == segment.before_room
        segment.arrived(segment.size)
    assert [] == made


def test_what_is_taken_from_a_request_brings_its_end_nearer() -> None:
    segment = Segment((0, 1, 2, 3), TILING, start=0, whole=False, room_s=1.0, make_room=list)
    before = segment.before_room
    assert (2, 3) == segment.split()
    assert before - 2 * BLOCK_SIZE == segment.before_room
