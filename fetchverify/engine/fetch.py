"""One range on its way to disk: request, body into buffers, pwrite, journal, hasher; runs in a worker thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import xxhash

from fetchverify.core.blocks import Block, Tiling
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.retry import Failure
from fetchverify.engine.hashing import BUFFER_SIZE, BufferPool, InOrderHash
from fetchverify.engine.pace import Pace
from fetchverify.net.transport import Body, ByteClient, Source, TransferError
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
class Pumped:
    """How a request ended: which of its blocks landed, how many bytes came, and what went wrong (None: nothing)."""

    landed: tuple[int, ...]
    progressed: bool
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class _Means:
    """What a pump works with."""

    pool: BufferPool
    pace: Pace
    spare: memoryview


def pump(
    client: ByteClient,
    pool: BufferPool,
    pace: Pace,
    download: Download,
    source: Source,
    indexes: tuple[int, ...],
    *,
    whole: bool,
) -> Pumped:
    """Fetch neighbouring blocks in one request; blocks the thread until they landed or the request failed.

    Args:
        client: asks the Hub or its CDN.
        pool: buffers of the run.
        pace: cap of the run.
        download: the file.
        source: where its bytes lie.
        indexes: ascending, neighbours, nobody else's; with `whole`, every missing block of the file.
        whole: the server ignores ranges: read one stream from the first byte and pass over what is there already.

    Raises:
        DiskError: the bytes could not be kept.
    """
    landed: list[int] = []
    works = [(index, download.work(index)) for index in indexes]
    before = sum(work.position for _, work in works)
    span = None if whole else Block(works[0][1].position, works[-1][1].block.stop)
    means = _Means(pool, pace, memoryview(bytearray(BUFFER_SIZE)))
    failure: Failure | None = None
    try:
        with client.open(download.manifest, download.file, source, span) as body:
            at = 0 if span is None else span.start
            for index, work in works:
                at = _pass_over(body, means.spare, at, work.position)
                while work.position < work.block.stop:
                    at += _land_piece(means, download, work, body)
                download.partial.record(index, work.check.digest())
                landed.append(index)
            if span is not None:
                body.finish()
    except TransferError as error:
        failure = error.failure
    for index in landed:
        del download.works[index]
    progressed = sum(work.position for _, work in works) > before
    return Pumped(landed=tuple(landed), progressed=progressed, failure=failure)


def _land_piece(means: _Means, download: Download, work: BlockWork, body: Body) -> int:
    """Read one buffer, write it, hand it to the hasher; return its length in bytes."""
    buffer = means.pool.take()
    into = means.spare if buffer is None else buffer
    most = means.pace.piece(min(BUFFER_SIZE, work.block.stop - work.position))
    try:
        count = body.fill(into[:most])
        piece = into[:count]
        # Written before it is hashed, from the same buffer: what was proved is what lies on disk.
        download.partial.write(piece, work.position)
    except BaseException:
        if buffer is not None:
            means.pool.give(buffer)
        raise
    work.check.update(piece)
    if buffer is None:
        download.hasher.wrote(work.position, count)
    elif not download.hasher.offer(work.position, buffer, count):
        means.pool.give(buffer)
    work.position += count
    download.count(count)
    means.pace.spend(count)
    return count


def _pass_over(body: Body, spare: memoryview, at: int, until: int) -> int:
    """Read bytes that are on disk already and drop them."""
    while at < until:
        at += body.fill(spare[: min(BUFFER_SIZE, until - at)])
    return at
