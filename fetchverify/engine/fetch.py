"""One range on its way to disk: request, body into buffers, pwrite, journal, hasher; runs in a worker thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import xxhash

from fetchverify.core.blocks import Block, MiB, Tiling
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.retry import Failure
from fetchverify.engine.hashing import BUFFER_SIZE, BufferPool, InOrderHash, new_buffer
from fetchverify.engine.pace import Pace
from fetchverify.net.body import Body
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.transport import ByteClient
from fetchverify.store.partial import Partial


@dataclass(slots=True)
class BlockWork:
    """One block that is landing: one writer at a time, each byte written once.

    A byte that the hasher consumed must never be written again, or the disk could differ from what was hashed;
    so whoever takes the block over goes on at `position`.
    """

    block: Block
    position: int
    check: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)


class Segment:
    """Neighbouring blocks that one request asks for; its end may be taken away while it runs.

    Attributes:
        indexes: blocks that are its own, ascending.
        landed: how many of them are on disk with their record.
        span: what was asked for; None for the whole file in one stream.
        size: bytes that it asks for, at the most.
        received: bytes that came for it.
        dropped: its connection was given up; what is missing is asked for elsewhere.
        body: what its thread reads from, while it does.
        room_s: seconds before its end at which `make_room` is called, from its thread; 0 for never.
    """

    def __init__(
        self,
        indexes: tuple[int, ...],
        tiling: Tiling,
        *,
        start: int,
        whole: bool,
        room_s: float = 0.0,
        make_room: Callable[[], object] | None = None,
    ) -> None:
        self.indexes = list(indexes)
        self._tiling = tiling
        self.span = None if whole else Block(start, tiling.block(indexes[-1]).stop)
        self.size = tiling.block(indexes[-1]).stop - start
        self.whole = whole
        self.landed = 0
        self.received = 0
        self.began = time.monotonic()
        self.dropped = False
        self.body: Body | None = None
        self._room_s = 0.0 if whole else room_s
        self._make_room = make_room
        self._next = 0
        self._sealed = False
        self._lock = threading.Lock()

    @property
    def age_s(self) -> float:
        """Seconds since it was handed out."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return self.received / max(self.age_s, 1e-3)

    @property
    def rest_s(self) -> float:
        """Seconds that the rest will take at this rate."""
        return (self.size - self.received) / max(self.rate, 1.0)

    @property
    def before_room(self) -> int:
        """Bytes to read before it makes room for the next request; 0 where it did, or will not."""
        if self._make_room is None or not self._room_s:
            return 0
        return max(0, self.size - self.received - int(self._room_s * self.rate))

    def arrived(self, count: int) -> None:
        """Note bytes that are on disk; make room where the rest is on its way."""
        self.received += count
        if self._make_room is not None and self._room_s and not self.before_room:
            make_room, self._make_room = self._make_room, None
            make_room()

    def next(self) -> int | None:
        """Return the next block to write; from now on nobody takes it away."""
        with self._lock:
            if self._next == len(self.indexes):
                return None
            self._next += 1
            return self.indexes[self._next - 1]

    def seal(self) -> bool:
        """Have nothing taken away any more; False where something was: more comes than belongs to it."""
        with self._lock:
            self._sealed = self.span is not None and self._tiling.block(self.indexes[-1]).stop == self.span.stop
            return self._sealed

    def drop(self) -> None:
        """Give its connection up; what came through it stays."""
        self.dropped = True
        if self.body is not None:
            self.body.abort()

    def split(self) -> tuple[int, ...]:
        """Take the later half of the blocks that were not begun yet, at least one, and return them."""
        with self._lock:
            # The first block is its own from the start, though its thread may not have come to it yet.
            waiting = len(self.indexes) - max(1, self._next)
            if waiting <= 0 or self.whole or self._sealed:
                return ()
            cut = len(self.indexes) - (waiting + 1) // 2
            taken = tuple(self.indexes[cut:])
            del self.indexes[cut:]
            self.size -= sum(len(self._tiling.block(index)) for index in taken)
            return taken


@dataclass(slots=True, kw_only=True)
class Download:
    """What the pumps of one file share; the counters are guarded by `lock`."""

    manifest: Manifest
    file: RemoteFile
    partial: Partial
    hasher: InOrderHash
    received: int
    fetched: int = 0
    works: dict[int, BlockWork] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tiling(self) -> Tiling:
        """The file's blocks."""
        return self.partial.tiling

    def work(self, index: int) -> BlockWork:
        """Return the block's progress, begun where it was not."""
        block = self.tiling.block(index)
        return self.works.setdefault(index, BlockWork(block, block.start))

    def count(self, length: int) -> None:
        """Count bytes that came over the network and are on disk."""
        with self.lock:
            self.received += length
            self.fetched += length


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every pump of a run works with."""

    client: ByteClient
    pool: BufferPool
    pace: Pace


class Line:
    """What one thread does on one connection: a segment, then the one that it asked for before the first one's end.

    Args:
        segment: to begin with.
        ask: returns the segment to ask for next, from the thread; None where there is none for this connection.
        turned: called from the thread when it goes on to the next segment, with both.

    Attributes:
        segment: the one that is read.
        following: the one that was asked for ahead.
    """

    def __init__(
        self,
        segment: Segment,
        ask: Callable[[], Segment | None],
        turned: Callable[[Segment, Segment], object],
    ) -> None:
        self.segment = segment
        self.following: Segment | None = None
        self._ask = ask
        self._turned = turned
        self._looked = False

    def look_ahead(self, means: Means, body: Body) -> None:
        """Ask for the next segment once the rest of this one is on its way, or nearly so."""
        segment = self.segment
        if self._looked or segment.size - segment.received > max(MiB, means.client.round_trip_s * 2 * segment.rate):
            return
        self._looked = True
        if body.can_ask_ahead and segment.seal() and (following := self._ask()) is not None:
            assert following.span is not None
            self.following = following
            body.ask_ahead(following.span)

    def advance(self, body: Body) -> bool:
        """Go on to the segment asked ahead; False where there is none, or its answer did not come."""
        if self.following is None or not body.advance():
            return False
        before, self.segment, self.following = self.segment, self.following, None
        self._looked = False
        self._turned(before, self.segment)
        return True


def pump(means: Means, download: Download, source: Source, line: Line) -> Failure | None:
    """Fetch a line's segments in a request each; blocks the thread until they landed or a request failed.

    Where a segment is `whole`, the server ignores ranges: one stream is read from the first byte, and what is on
    disk already is passed over.

    Raises:
        DiskError: the bytes could not be kept.
    """
    spare = Spare()
    span = line.segment.span
    try:
        with means.client.open(download.manifest, download.file, source, span) as body:
            while True:
                at = _land(means, download, line, body, spare)
                if line.following is None:
                    break
                if not line.advance(body):
                    return None
            span = line.segment.span
            if span is not None and at == span.stop:
                body.finish()
    except TransferError as error:
        return error.failure
    finally:
        line.segment.body = None
    return None


def _land(means: Means, download: Download, line: Line, body: Body, spare: Spare) -> int:
    """Read what is a segment's own, block by block; return where in the file the body stands."""
    segment = line.segment
    at = 0 if segment.span is None else segment.span.start
    segment.body = body
    while (index := segment.next()) is not None:
        work = download.work(index)
        at = _pass_over(body, spare, at, work.position)
        while work.position < work.block.stop:
            # Before the piece: nothing that may fail comes between a block's last byte and its record.
            line.look_ahead(means, body)
            at += _land_piece(means, download, segment, work, body, spare)
        download.partial.record(index, work.check.digest())
        del download.works[index]
        segment.landed += 1
    segment.body = None
    return at


class Spare:
    """A buffer for bytes that nobody keeps in memory; made when it is first asked for, since few segments need it."""

    def __init__(self) -> None:
        self._buffer: memoryview | None = None

    def get(self) -> memoryview:
        """Return the buffer."""
        if self._buffer is None:
            self._buffer = new_buffer()
        return self._buffer


def _land_piece(means: Means, download: Download, segment: Segment, work: BlockWork, body: Body, spare: Spare) -> int:
    """Read one buffer, write it, hand it to the hasher; return its length in bytes."""
    buffer = download.hasher.take(work.position)
    into = spare.get() if buffer is None else buffer
    wanted = min(BUFFER_SIZE, work.block.stop - work.position)
    most = means.pace.piece(min(wanted, segment.before_room or wanted))
    try:
        count = body.fill(into[:most])
        piece = into[:count]
        # Written before it is hashed, from the same buffer: what was proved is what lies on disk. What the hash is
        # handed in memory need not be in the page cache, too.
        if buffer is not None and means.pace.swift:
            download.partial.write_past_cache(piece, work.position)
        else:
            download.partial.write(piece, work.position)
    except BaseException:
        if buffer is not None:
            means.pool.give(buffer)
        raise
    work.check.update(piece)
    if buffer is None:
        download.hasher.wrote(work.position, count)
    else:
        download.hasher.offer(work.position, buffer, count)
    work.position += count
    download.count(count)
    segment.arrived(count)
    means.pace.spend(count)
    return count


def _pass_over(body: Body, spare: Spare, at: int, until: int) -> int:
    """Read bytes that are on disk already and drop them."""
    while at < until:
        at += body.fill(spare.get()[: min(BUFFER_SIZE, until - at)])
    return at
