"""What all files of one run share: connections, buffers, threads, counters, retries, and the way to stop them all."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from fetchverify import events
from fetchverify.core.blocks import MiB
from fetchverify.core.flow import Flow, first_connections, laggards, past_cache, room_before_end, segment_blocks
from fetchverify.core.manifest import Manifest
from fetchverify.core.retry import PATIENT, Failure, Patience, Reason, Stop, Verdict, decide
from fetchverify.core.tickets import Tickets
from fetchverify.engine.audit import Auditor
from fetchverify.engine.fetch import Means, Segment
from fetchverify.engine.hashing import BufferPool, InOrderHash
from fetchverify.engine.pace import Pace
from fetchverify.engine.suppliers import Supplier, Suppliers
from fetchverify.net.transport import ByteClient, Locator
from fetchverify.net.wire import Endpoint

_POOL_BUFFERS = 52  # MiB; the whole process stays below 150 MiB
_MOST_SMALL = 32  # 200 files of 10 KB at a round trip of 50 ms: 0.63 s, against 11 s one by one
_STEER_EVERY_S = 0.1
# A connection may take so many round trips to come to speed, within these bounds, before it is held against its peers.
_ROUND_TRIPS_OF_GRACE = 20
_LEAST_GRACE_S, _GRACE_S = 0.5, 2.0
_MOST_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How to carry a plan out.

    Attributes:
        connections: requests under way at once.
        limit_rate: bytes per second over all connections, or None.
        patience: how often and how long to try without a byte of progress.
        lock_timeout_s: how long to wait for another process's lock; None waits for ever, and says so.
        offline: use what is on this disk; what would have to be fetched is absent.
        force: fetch what the plan says even where it was published meanwhile.
    """

    connections: int = 16
    limit_rate: int | None = None
    patience: Patience = PATIENT
    lock_timeout_s: float | None = None
    offline: bool = False
    force: bool = False


class Run:
    """The shared state of one transfer; lives on the event loop, `abort` and the counters may be used from threads.

    Attributes:
        small_slots: requests for small files under way at once; also the limit of the threads that carry them.
        slots: requests for segments of large files under way at once; follows what the line bears.
        threads: those that carry them.
        hashers: threads that hash large files; they must not keep others, such as syncs, waiting for anyio's own.
        segments: requests for segments under way.
        promiser: who said what the files are, for messages.
        suppliers: where bytes may come from; `means` are those of the first.
        active: hashers at work, which `abort` has to stop, and what their files still lack.
        bytes_fetched: bytes that came over the network, good or bad.
    """

    def __init__(
        self,
        manifest: Manifest,
        endpoint: Endpoint,
        options: TransferOptions,
        emit: events.Emit,
        locator: Locator | None = None,
        mirrors: Sequence[Endpoint] = (),
    ) -> None:
        self.manifest = manifest
        self.promiser = "the Hub" if locator is None else "its pointer"
        self.options = options
        self.emit = emit
        self._requests = itertools.count()
        small = min(2 * options.connections, _MOST_SMALL)

        def new_client(endpoint: Endpoint, locator: Locator | None = None) -> ByteClient:
            most, count = small + options.connections, lambda: next(self._requests)
            return ByteClient(endpoint, connections=most, count=count, locator=locator)

        client = new_client(endpoint, locator)
        self.means = Means(client=client, pool=BufferPool(_POOL_BUFFERS), pace=Pace(options.limit_rate))
        self.suppliers = Suppliers(self.means, (endpoint, *mirrors), new_client, emit)
        self.auditor = Auditor()
        self.small_slots = anyio.CapacityLimiter(small)
        # Twice as many: the last bytes of one request may arrive beside the first ones of the next.
        self.threads = anyio.CapacityLimiter(2 * options.connections)
        self.slots = anyio.CapacityLimiter(min(2, options.connections))
        self.hashers = anyio.CapacityLimiter(math.inf)  # as many as files are fetched at once
        self.active: dict[InOrderHash, Tickets] = {}
        self.segments: set[Segment] = set()
        self._flow: Flow | None = None
        self._first_grace_s = self._grace_s = _GRACE_S
        self._ended_rates: deque[float] = deque(maxlen=16)
        self._ended = 0  # bytes of segments that are no longer in `segments`
        self.retries = 0
        self.bytes_fetched = 0

    @property
    def requests(self) -> int:
        """Return how many requests were sent for bytes; ends the counting."""
        return next(self._requests)

    def abort(self) -> None:
        """Wake every thread of this run; what it wrote so far is kept."""
        self.suppliers.abort()
        self.means.pace.stop()
        self.auditor.stop()
        for hasher in tuple(self.active):
            hasher.stop()

    def begin_flow(self, round_trip_s: float) -> None:
        """Choose how many connections to begin with, once a line's round trip is known."""
        if self._flow is None:
            most = self.options.connections
            first = max(first_connections(round_trip_s, most), min(len(self.suppliers.all), most))
            self._flow = Flow(first=first, most=most, now=anyio.current_time(), round_trip_s=round_trip_s)
            self.slots.total_tokens = first
            grace_s = max(_LEAST_GRACE_S, round_trip_s * _ROUND_TRIPS_OF_GRACE)
            self._first_grace_s = self._grace_s = min(_GRACE_S, grace_s)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Callable[[], None]]:
        """Hold one of `slots` until the block ends, or until what it yields is called, on the loop."""
        holder, held = object(), True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self.slots.release_on_behalf_of(holder)

        await self.slots.acquire_on_behalf_of(holder)
        try:
            yield release
        finally:
            release()

    @property
    def goes_on(self) -> bool:
        """True where a connection may go on at once with another request: nobody has to be let in or go."""
        return self.slots.borrowed_tokens <= self.slots.total_tokens and not (self._flow and self._flow.limited)

    def room_s(self, supplier: Supplier) -> float:
        """Return how many seconds before its end a request to this supplier makes room for the next."""
        if self._flow is None or not self._flow.limited:
            return 0.0
        return room_before_end(supplier.means.client.round_trip_s, self.options.connections, self._flow.reach)

    def enter(self, segment: Segment, supplier: Supplier) -> None:
        """Watch a request for a segment."""
        self.segments.add(segment)
        supplier.segments.add(segment)

    def leave(self, segment: Segment, supplier: Supplier) -> None:
        """End the watch."""
        self.segments.discard(segment)
        supplier.leave(segment)
        self._ended += segment.received
        if self._flow is not None and segment.received == segment.size:
            self._flow.served()
        if not segment.dropped and segment.received >= MiB:
            self._ended_rates.append(segment.rate)
            if segment.rate >= statistics.median(self._ended_rates) / 2:
                self._grace_s = self._first_grace_s  # asking again does help on this line

    def _received(self) -> int:
        return self._ended + sum(segment.received for segment in self.segments)

    def segment_blocks(self, supplier: Supplier, block_size: int, left: int, under_way: int) -> int:
        """Return how many blocks the next request to this supplier should span.

        Args:
            supplier: whom to ask.
            block_size: bytes.
            left: bytes of the file that lack.
            under_way: requests for the file.
        """
        if self._flow is not None and self._flow.limited:
            return 1  # the shorter they are, the more of them are on their way while the server takes the next
        rates = [segment.rate for segment in supplier.segments if segment.received]
        line_rate = statistics.median(rates) if rates else 0.0
        # Lines that end where all is asked for already come to the files that still have something to ask for.
        wanting = sum(tickets.free > 0 for tickets in self.active.values())
        lines = self.slots.total_tokens / max(1, wanting)
        silence_s = supplier.means.client.silence_s
        return segment_blocks(silence_s, line_rate, block_size, left / block_size, lines, under_way=under_way)

    async def steer(self) -> None:
        """Add and take away connections as the line answers, and give up those that fall far behind; never ends."""
        before, at = 0, anyio.current_time()
        while True:
            await anyio.sleep(_STEER_EVERY_S)
            received, now = self._received(), anyio.current_time()
            rate, far = (received - before) / max(now - at, 1e-3), self.means.client.is_far
            self.means.pace.swift = past_cache(rate, far=far)
            before, at = received, now
            if self._flow is not None:
                # Each has to be looked at: `all` alone would end with the first that rests.
                outrun = [hasher.look() for hasher in tuple(self.active)]
                enough = bool(outrun) and all(outrun)
                self.slots.total_tokens = self._flow.tick(now, received, enough=enough)
            old = (one for one in self.segments if one.age_s > self._grace_s and not one.dropped)
            known = {one: (one.rate, one.rest_s) for one in old}
            for segment in laggards(known, self._ended_rates):
                segment.drop()
                # A line that is slow for good must not be asked anew every other second.
                self._grace_s = min(_MOST_GRACE_S, self._grace_s * 1.5)

    async def judge(
        self, path: str, failure: Failure, attempt: int, quiet_s: float, *, elsewhere: bool = False
    ) -> Verdict:
        """Decide what follows a failure, tell it, and wait as long as it takes.

        Args:
            path: the file.
            failure: what went wrong.
            attempt: how many times in a row without progress, from 1.
            quiet_s: seconds since the last progress.
            elsewhere: another supplier may have it: nobody waits, and the line is not used less for one supplier.
        """
        jitter = random.random()  # noqa: S311
        patience = self.options.patience
        verdict = decide(failure, attempt=attempt, elapsed_s=quiet_s, jitter=jitter, patience=patience)
        if not isinstance(verdict, Stop):
            self.retries += 1
            crowded = failure.reason is Reason.TIMEOUT or failure.reason is Reason.BAD_STATUS
            if self._flow is not None and crowded and not elsewhere:
                now, answered = anyio.current_time(), sum(one.body is not None for one in self.segments)
                limits = failure.status == 429 and failure.retry_after_s is None
                self.slots.total_tokens = self._flow.refused(now, answered) if limits else self._flow.trouble(now)
            if failure.status == 429 and not elsewhere:
                self.small_slots.total_tokens = max(1, self.small_slots.total_tokens // 2)
            wait_s = getattr(verdict, "wait_s", 0.0)
            self.emit(events.Retrying(path=path, reason=failure.summary, attempt=attempt, wait_s=round(wait_s, 3)))
            if not elsewhere:
                await anyio.sleep(wait_s)
        return verdict
