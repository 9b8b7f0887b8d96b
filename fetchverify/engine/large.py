"""One large file from its first missing block to a proved partial; publishing is left to `transfer`."""

from __future__ import annotations

import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import anyio
import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.core.blocks import MiB
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, OneStream, Reason, ReResolve, Stop
from fetchverify.core.suppliers import EARLIER
from fetchverify.core.tickets import Tickets
from fetchverify.engine.fetch import Download, Line, Segment, pump
from fetchverify.engine.hashing import InOrderHash
from fetchverify.engine.run import Run
from fetchverify.engine.suppliers import Choice, Supplier
from fetchverify.net.checks import Source, TransferError
from fetchverify.store.partial import Partial

_SYNC_EVERY_S = 1.0  # or after so many bytes: what a power cut takes at the most
_MOST_UNSYNCED = 64 * MiB
_WORTH_A_SPLIT_S = 1.0
_LOOK_AGAIN_S = 0.25  # whether a connection became slow enough to take blocks from


@dataclass(slots=True, eq=False)
class _Place:
    """Where one supplier keeps the file, and how it failed since it last gave a byte of it."""

    source: Source | None = None
    locating: anyio.Lock = field(default_factory=anyio.Lock)
    attempt: int = 0
    judged_at: float = 0.0


class LargeFile:
    """Fetches the missing blocks of one partial and yields its digest.

    Attributes:
        came: who gave each block, by the supplier's number; several where a block changed hands.
        choice: whom to ask.
        failure: why there is no digest.
    """

    def __init__(self, run: Run, file: RemoteFile, partial: Partial) -> None:
        self._run = run
        self._partial = partial
        self._tickets = Tickets(partial.landed.missing())
        self._places: defaultdict[Supplier, _Place] = defaultdict(_Place)
        self.choice = Choice(run.suppliers, file)
        self.came: dict[int, frozenset[int]] = {index: frozenset((EARLIER,)) for index in partial.landed.hashes}
        self._wake = anyio.Event()
        self._progress_at = anyio.current_time()
        self._whole = False
        self._segments: set[Segment] = set()
        self._finished = False
        self.failure: Failure | None = None
        self.download = Download(
            manifest=run.manifest,
            file=file,
            partial=partial,
            received=partial.landed.landed,
            hasher=InOrderHash(
                file.digest,
                partial.tiling,
                read_into=partial.read_into,
                block_hashes=partial.landed.hashes,
                pool=run.means.pool,
                rotted=self._rotted,
            ),
        )

    async def run(self, lines: int) -> str | None:
        """Return the digest in hex of the complete partial, or None where `failure` says why there is none.

        Raises:
            DiskError: the partial could not be written or read.
        """
        self._run.active[self.download.hasher] = self._tickets
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._abort_on_trouble)
                group.start_soon(self._sync_now_and_then)
                group.start_soon(self._locate_early)
                for _ in range(2 * lines):  # a slot may become free while its last holder's bytes still arrive
                    group.start_soon(self._follow_tickets)
                digest = await anyio.to_thread.run_sync(self.download.hasher.run, limiter=self._run.hashers)
                # The last block may be hashed before its record is written: let the lines come to their end.
                while self.failure is None and not self._tickets.done:
                    await self._wake.wait()
                self._finished = True
                group.cancel_scope.cancel()
            return digest if self.failure is None else None
        finally:
            self._run.active.pop(self.download.hasher, None)

    async def _follow_tickets(self) -> None:
        while self.failure is None:
            failure: Failure | None = None
            source: Source | None = None
            began = time.monotonic()
            # First a slot, then the blocks: what waits for a slot must not sit on the blocks that come next.
            async with self._run.slot() as make_room:
                supplier = self.choice.next(self._free_bytes(), self._partial.tiling.block_size)
                indexes = () if supplier is None else self._take(supplier)
                if supplier is not None and indexes:
                    began = time.monotonic()
                    failure, source = await self._fetch(self._segment(indexes, supplier, make_room), supplier)
                    self._notify()
            if failure is not None and supplier is not None:
                await self._judge(failure, supplier, source, began)
            elif not indexes:
                with anyio.move_on_after(_LOOK_AGAIN_S):
                    await self._wake.wait()

    def _free_bytes(self) -> int:
        return self._tickets.free * self._partial.tiling.block_size

    def _segment(
        self, indexes: tuple[int, ...], supplier: Supplier, make_room: Callable[[], None] | None = None
    ) -> Segment:
        begun = self.download.works.get(indexes[0])
        tiling = self._partial.tiling
        start = tiling.block(indexes[0]).start if begun is None else begun.position
        return Segment(
            indexes,
            tiling,
            start=start,
            whole=self._whole,
            room_s=self._run.room_s(supplier),
            make_room=make_room and functools.partial(anyio.from_thread.run_sync, make_room),
        )

    def _take(self, supplier: Supplier) -> tuple[int, ...]:
        """Return the blocks that the next request should span; empty where there is nothing to do for now."""
        if self._whole:
            return () if self._segments else self._tickets.take(self._partial.tiling.count)
        if self._tickets.free:
            left = self._free_bytes() + sum(segment.size - segment.received for segment in self._segments)
            block_size, under_way = self._partial.tiling.block_size, len(self._segments)
            most = self._run.segment_blocks(supplier, block_size, left, under_way)
            return self._tickets.take(most, begun=self.download.works)
        return self._take_from_the_slowest()

    def _take_from_the_slowest(self) -> tuple[int, ...]:
        """Return blocks that wait behind a slow connection while this one has nothing to do: the endgame."""
        for segment in sorted(self._segments, key=lambda one: one.rest_s, reverse=True):
            # What its connection has in flight is lost with the rest of the request: it must be worth that.
            worth_it = segment.age_s > _WORTH_A_SPLIT_S and segment.rest_s > _WORTH_A_SPLIT_S
            if worth_it and (taken := segment.split()):
                return taken
        return ()

    async def _fetch(self, segment: Segment, supplier: Supplier) -> tuple[Failure | None, Source | None]:
        """Make one request for these blocks, and more behind it; return what went wrong, and with which address."""
        place = self._places[supplier]
        source, failure = place.source, None
        line = Line(
            segment,
            ask=functools.partial(anyio.from_thread.run_sync, self._ask_ahead, supplier),
            turned=lambda before, now: anyio.from_thread.run_sync(self._turn, supplier, before, now),
        )
        self._enter(segment, supplier)
        try:
            source = source or await self._locate(supplier, place)
            failure = await anyio.to_thread.run_sync(
                pump, supplier.means, self.download, source, line, limiter=self._run.threads
            )
        except TransferError as error:
            failure = error.failure
        finally:
            left = self._leave(line.segment, supplier)
            if line.following is not None:
                self._give_all_back(line.following.indexes)
        return (failure if left and not line.segment.dropped else None), source

    def _ask_ahead(self, supplier: Supplier) -> Segment | None:
        """Return what a connection should ask for before the end of what it reads; None where others are to be asked.

        Where all hashes are busy and other files wait, its place goes round.
        """
        crowded = self.download.hasher.outrun and len(self._run.active) > 1
        if self._finished or self.failure is not None or self._whole or not self._tickets.free:
            return None
        if crowded or not self._run.goes_on:
            return None
        if self.choice.next(self._free_bytes(), self._partial.tiling.block_size) is not supplier:
            return None
        return self._segment(self._take(supplier), supplier)

    def _turn(self, supplier: Supplier, before: Segment, segment: Segment) -> None:
        """Go on from one segment of a line to the next."""
        self._leave(before, supplier)
        segment.began = time.monotonic()
        self._enter(segment, supplier)

    def _enter(self, segment: Segment, supplier: Supplier) -> None:
        self._segments.add(segment)
        self._run.enter(segment, supplier)

    def _leave(self, segment: Segment, supplier: Supplier) -> bool:
        """Note what landed of a segment; return whether blocks are left of it."""
        self._segments.discard(segment)
        self._run.leave(segment, supplier)
        # The one after those that landed may have been begun.
        for index in segment.indexes[: segment.landed + (1 if segment.received else 0)]:
            self.came[index] = self.came.get(index, frozenset()) | {supplier.number}
        for index in segment.indexes[: segment.landed]:
            self._tickets.landed(index)
        left = segment.indexes[segment.landed :]
        self._give_all_back(left)
        if segment.received:
            self._places[supplier].attempt, self._progress_at = 0, anyio.current_time()
        return bool(left)

    def _give_all_back(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self._tickets.give_back(index)

    async def _judge(self, failure: Failure, supplier: Supplier, source: Source | None, began: float) -> None:
        place, elsewhere = self._places[supplier], self.choice.elsewhere(supplier)
        # Sixteen connections that fail together, or while one of them waits, are one attempt, not sixteen.
        counts = began >= place.judged_at
        if counts:
            place.attempt += 1
            place.judged_at = math.inf
        if self._run.suppliers.several and failure.host is None:
            failure = replace(failure, host=supplier.endpoint.host)
        if failure.reason is Reason.EXPIRED and place.source is source:
            place.source = None  # before anything is waited for: the others need not try it, too
        quiet_s = anyio.current_time() - self._progress_at
        verdict = await self._run.judge(
            self.download.file.path, failure, max(1, place.attempt), quiet_s, elsewhere=elsewhere
        )
        wait_s = getattr(verdict, "wait_s", 0.0) if elsewhere else 0.0
        if counts:
            place.judged_at = time.monotonic() + wait_s
        match verdict:
            case OneStream() | Stop() if elsewhere:
                self.choice.give_up(supplier, failure)
            case ReResolve():
                if place.source is source:
                    place.source = None
            case OneStream():
                self._whole = True
            case Stop():
                self._stop(failure)
        if elsewhere:
            self.choice.rest(supplier, failure, wait_s)
            self._notify()

    def _stop(self, failure: Failure) -> None:
        """Give the file up, unless somebody has it in one stream at least."""
        if not self._whole and self._run.suppliers.several and self.choice.revive() is not None:
            self._whole = True
            return
        self.failure = self.choice.told(failure) if self._run.suppliers.several else failure
        self.download.hasher.stop()

    async def _locate_early(self) -> None:
        """Ask for the address while other files use the line; whoever needs it meets the failure, if there is one."""
        first = self._run.suppliers.all[0]
        if self._tickets.free and not self._run.suppliers.several:
            with suppress(TransferError):
                await self._locate(first, self._places[first])

    async def _locate(self, supplier: Supplier, place: _Place) -> Source:
        async with place.locating:
            if place.source is None:
                place.source = await anyio.to_thread.run_sync(
                    supplier.means.client.locate,
                    self.download.manifest,
                    self.download.file,
                    limiter=self._run.threads,
                )
                self._run.begin_flow(supplier.means.client.round_trip_s)
            return place.source

    def _rotted(self, index: int) -> None:
        """Have a block fetched again whose bytes on disk are not what its record says; called by the hasher."""
        self._partial.drop([index])
        anyio.from_thread.run_sync(self._give_back, index)

    def _give_back(self, index: int) -> None:
        self.came.pop(index, None)
        self.download.received -= len(self._partial.tiling.block(index))
        self._tickets.give_back(index)
        self._run.emit(
            events.Note(level="warning", message=f"block {index} of `{self.download.file.path}` rotted on disk")
        )
        self._notify()

    async def _sync_now_and_then(self) -> None:
        synced_at = anyio.current_time()
        while True:
            await anyio.sleep(_SYNC_EVERY_S / 8)
            if anyio.current_time() - synced_at >= _SYNC_EVERY_S or self._partial.unsynced_bytes >= _MOST_UNSYNCED:
                await anyio.to_thread.run_sync(self._partial.sync)
                synced_at = anyio.current_time()

    async def _abort_on_trouble(self) -> None:
        """Wake the threads below when this group ends before its time: nothing else reaches into them."""
        try:
            await anyio.sleep_forever()
        finally:
            if not self._finished:
                self._run.abort()

    def _notify(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()
