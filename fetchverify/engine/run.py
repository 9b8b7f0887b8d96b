"""What all files of one run share: connections, buffers, threads, counters, retries, and the way to stop them all."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass

import anyio

from fetchverify import events
from fetchverify.core.manifest import Manifest
from fetchverify.core.retry import PATIENT, Failure, Patience, Stop, Verdict, decide
from fetchverify.engine.audit import Auditor
from fetchverify.engine.hashing import BufferPool, InOrderHash
from fetchverify.engine.pace import Pace
from fetchverify.net.transport import ByteClient
from fetchverify.net.wire import Endpoint

_POOL_BUFFERS = 64  # MiB; the whole process stays below 150 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How to carry a plan out.

    Attributes:
        connections: requests under way at once.
        limit_rate: bytes per second over all connections, or None.
        patience: how often and how long to try without a byte of progress.
        lock_timeout_s: how long to wait for another process's lock; None waits for ever, and says so.
        offline: use what is on this disk; what would have to be fetched is absent.
    """

    connections: int = 16
    limit_rate: int | None = None
    patience: Patience = PATIENT
    lock_timeout_s: float | None = None
    offline: bool = False


class Run:
    """The shared state of one transfer; lives on the event loop, `abort` and the counters may be used from threads.

    Attributes:
        slots: requests under way at once, over all files; also the limit of the threads that carry them.
        hashers: hashing threads at once, one a core: more would only share the cores.
        active: hashers at work, which `abort` has to stop.
        bytes_fetched: bytes that came over the network, good or bad.
    """

    def __init__(self, manifest: Manifest, endpoint: Endpoint, options: TransferOptions, emit: events.Emit) -> None:
        cores = os.cpu_count() or 1
        self.manifest = manifest
        self.options = options
        self.emit = emit
        self._requests = itertools.count()
        self.client = ByteClient(endpoint, connections=options.connections, count=lambda: next(self._requests))
        self.pool = BufferPool(_POOL_BUFFERS)
        self.pace = Pace(options.limit_rate)
        self.auditor = Auditor()
        self.slots = anyio.CapacityLimiter(options.connections)
        self.hashers = anyio.CapacityLimiter(cores)
        self.active: set[InOrderHash] = set()
        self.retries = 0
        self.bytes_fetched = 0

    @property
    def requests(self) -> int:
        """Return how many requests were sent for bytes; ends the counting."""
        return next(self._requests)

    def abort(self) -> None:
        """Wake every thread of this run; what it wrote so far is kept."""
        self.client.abort()
        self.pace.stop()
        self.auditor.stop()
        for hasher in tuple(self.active):
            hasher.stop()

    async def judge(self, path: str, failure: Failure, attempt: int, quiet_s: float) -> Verdict:
        """Decide what follows a failure, tell it, and wait as long as it takes.

        Args:
            path: the file.
            failure: what went wrong.
            attempt: how many times in a row without progress, from 1.
            quiet_s: seconds since the last progress.
        """
        jitter = random.random()  # noqa: S311
        patience = self.options.patience
        verdict = decide(failure, attempt=attempt, elapsed_s=quiet_s, jitter=jitter, patience=patience)
        if not isinstance(verdict, Stop):
            self.retries += 1
            wait_s = getattr(verdict, "wait_s", 0.0)
            self.emit(events.Retrying(path=path, reason=failure.summary, attempt=attempt, wait_s=round(wait_s, 3)))
            await anyio.sleep(wait_s)
        return verdict
