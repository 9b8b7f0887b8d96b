"""What a run learns of its endpoints, and what that means for each file."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from fetchverify import events
from fetchverify.core.blocks import BLOCK_SIZE, Tiling
from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.retry import Failure, Reason
from fetchverify.engine.fetch import Means, Segment
from fetchverify.engine.hashing import BufferPool
from fetchverify.engine.pace import Pace
from fetchverify.engine.suppliers import Choice, Suppliers
from fetchverify.net.transport import ByteClient
from fetchverify.net.wire import Endpoint

ABSENT = Failure(reason=Reason.ABSENT, code="EntryNotFound")
DEAD = Failure(reason=Reason.CONNECT)
TILING = Tiling(size=4 * BLOCK_SIZE)


def a_file(path: str) -> RemoteFile:
    return RemoteFile(path=RepoPath(path), size=TILING.size, digest=Digest(algo="sha256", hex="a" * 64), blob_id="b")


@pytest.fixture
def two() -> Iterator[Suppliers]:
    """Two endpoints that nobody listens at: nothing here sends."""

    def client(endpoint: Endpoint) -> ByteClient:
        return ByteClient(endpoint, connections=1, count=lambda: None)

    endpoints = [Endpoint(url="http://127.0.0.1:1"), Endpoint(url="http://127.0.0.1:2")]
    means = Means(client=client(endpoints[0]), pool=BufferPool(1), pace=Pace(None))
    heard: list[events.Event] = []
    suppliers = Suppliers(means, endpoints, client, heard.append)
    yield suppliers
    suppliers.close()


def test_who_is_dropped_over_another_file_is_still_asked_for_what_nobody_else_has(two: Suppliers) -> None:
    """Else this file would wait for ever for somebody to ask."""
    first, mirror = two.all
    ours, other = Choice(two, a_file("ours")), Choice(two, a_file("other"))
    ours.give_up(first, ABSENT)
    other.give_up(mirror, DEAD)
    assert (None, DEAD) == (first.gone, mirror.gone)
    assert [first] == other.able()
    assert [mirror] == ours.able()
    assert not ours.elsewhere(mirror), "its failure is the file's"

    async def ask() -> None:
        assert mirror is await ours.first()
        assert mirror is ours.next(TILING.size, BLOCK_SIZE)

    anyio.run(ask)


def test_one_that_keeps_silent_is_not_asked_first_again(two: Suppliers) -> None:
    """Whom nobody measured goes first, but a dropped connection without a byte is a measure."""
    first, mirror = two.all
    for supplier, received in ((first, BLOCK_SIZE), (mirror, 0)):
        segment = Segment((0,), TILING, start=0, whole=False)
        segment.received = received
        if not received:
            segment.drop()
        supplier.segments.add(segment)
        supplier.leave(segment)
    choice = Choice(two, a_file("w.bin"))

    async def ask() -> None:
        assert first is choice.next(TILING.size, BLOCK_SIZE)

    anyio.run(ask)
