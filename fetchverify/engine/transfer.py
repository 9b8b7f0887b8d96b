"""Carries out a `Plan`: proves what is there, links it, fetches the rest, publishes each file once it is proved."""

from __future__ import annotations

import datetime
import os
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.core.manifest import Digest, Manifest, RemoteFile
from fetchverify.core.plan import SMALL_FILE, Copy, Fetch, Keep, Link, Plan
from fetchverify.core.report import Outcome, OutcomeKind
from fetchverify.core.retry import Again, Failure, OneStream, Reason, ReResolve, Stop, decide
from fetchverify.engine.audit import Auditor
from fetchverify.engine.fetch import Line
from fetchverify.engine.hashing import BufferPool, new_hash
from fetchverify.engine.large import LargeFile, Shared
from fetchverify.engine.pace import Pace
from fetchverify.net.transport import ByteClient, TransferError
from fetchverify.net.wire import Endpoint
from fetchverify.store.disk import Disk
from fetchverify.store.layout import Layout
from fetchverify.store.partial import Partial
from fetchverify.store.quarantine import Quarantine

T = TypeVar("T")

_POOL_BUFFERS = 64  # MiB; the whole process stays below 150 MiB
_PROGRESS_EVERY_S = 0.1
# A digest that differs is fetched once more: a byte flipped once is healed, one flipped always is not paid for
# a third time.
_ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How to carry a plan out.

    Attributes:
        connections: requests under way at once.
        limit_rate: bytes per second over all connections, or None.
        lock_timeout_s: how long to wait for another process's lock; None waits for ever, and says so.
    """

    connections: int = 16
    limit_rate: int | None = None
    lock_timeout_s: float | None = None


class Transfer:
    """One run over one repo; use `execute` once."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        layout: Layout,
        disk: Disk,
        endpoint: Endpoint,
        options: TransferOptions,
        emit: events.Emit,
    ) -> None:
        self._manifest = manifest
        self._layout = layout
        self._disk = disk
        self._endpoint = endpoint
        self._options = options
        self._emit = emit
        self._quarantine = Quarantine(disk, layout.area)
        self._auditor = Auditor()
        self._client = ByteClient(endpoint, connections=options.connections, count=self._count_request)
        self._line = Line(client=self._client, pool=BufferPool(_POOL_BUFFERS), pace=Pace(options.limit_rate))
        cores = os.cpu_count() or 1
        self._shared = Shared(
            line=self._line,
            slots=anyio.CapacityLimiter(options.connections),
            hashers=anyio.CapacityLimiter(cores),
            emit=emit,
            retried=self._count_retry,
            abort=self._abort,
        )
        self._disk_threads = anyio.CapacityLimiter(4)
        self._large_at_once = anyio.CapacityLimiter(cores)
        self._shown: dict[LargeFile, tuple[int, int]] = {}
        self._outcomes: list[Outcome] = []
        self.requests = 0
        self.retries = 0
        self.bytes_fetched = 0

    async def execute(self, plan: Plan) -> tuple[Outcome, ...]:
        """Bring every file of the plan to its end and return the outcomes in the manifest's order.

        Raises:
            DiskError: the disk is full or failing; partials are kept.
            LockedError: another process kept a lock for longer than the options allow.
        """
        for refusal in plan.refusals:
            self._finish(refusal.file, OutcomeKind.REFUSED, detail=refusal.why)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._abort_when_cancelled)
                group.start_soon(self._show_progress)
                extra = await self._use_what_is_there(plan)
                await self._fetch_all([*plan.fetches, *extra])
                group.cancel_scope.cancel()
        finally:
            self._client.close()
        order = {file.path: number for number, file in enumerate(self._manifest.files)}
        return tuple(sorted(self._outcomes, key=lambda outcome: order.get(outcome.path, -1)))  # type: ignore[call-overload]

    @property
    def quarantined(self) -> int:
        """Bad copies that lie in quarantine."""
        return self._quarantine.count()

    # --- what is there -------------------------------------------------------------------------------------

    async def _use_what_is_there(self, plan: Plan) -> list[Fetch]:
        """Keep and link what can be proved; return the fetches of what could not."""
        extra: list[Fetch] = []

        async def keep(action: Keep) -> None:
            if action.copy.proved or await self._prove(action.file, action.copy):
                self._finish(action.file, OutcomeKind.KEPT)
            else:
                extra.append(Fetch(files=(action.file,), landed=0, replaces=(action.copy,)))

        async def link(action: Link) -> None:
            for copy in action.copies:
                if copy.proved or await self._prove(action.file, copy):
                    how = await self._publishing(action.file, lambda: self._replace_with_copy(action, copy))  # noqa: B023
                    self._finish(action.file, OutcomeKind.LINKED if how == "linked" else OutcomeKind.COPIED)
                    return
            bad = tuple(c for c in (action.replaces, *action.copies) if c is not None)
            extra.append(Fetch(files=(action.file,), landed=0, replaces=bad))

        # What needs no hashing needs no task either: a complete snapshot of 100,000 files is gone through in a loop.
        for action in plan.keeps:
            if action.copy.proved:
                await keep(action)
        await _each(keep, [action for action in plan.keeps if not action.copy.proved], at_once=4)
        await _each(link, plan.links, at_once=4)
        return extra

    async def _prove(self, file: RemoteFile, copy: Copy) -> bool:
        if copy.size != file.size or not await self._auditor.matches(Path(copy.where), file.digest, file.size):
            self._emit(
                events.Note(level="warning", message=f"`{copy.where}` is not what the Hub promises for `{file.path}`")
            )
            return False
        await self._in_thread(lambda: self._layout.proofs.add(file.digest, Path(copy.where)))
        return True

    def _replace_with_copy(self, action: Link, copy: Copy) -> str:
        if action.replaces is not None:
            self._set_aside(action.file, "replaced by a proved copy")
        return self._layout.publish_copy(action.file, copy)

    # --- fetching ------------------------------------------------------------------------------------------

    async def _fetch_all(self, fetches: list[Fetch]) -> None:
        small = [fetch for fetch in fetches if fetch.size <= SMALL_FILE]
        large = [fetch for fetch in fetches if fetch.size > SMALL_FILE]
        async with anyio.create_task_group() as group:
            # Small files first, in a bunch; the large ones follow as soon as no small one waits for a connection.
            await _each(self._fetch_small, small, at_once=self._options.connections, group=group)
            await _each(self._fetch_large, large, at_once=os.cpu_count() or 1, group=group)

    async def _fetch_small(self, fetch: Fetch) -> None:
        """Fetch a file of at most 1 MiB into memory, prove it there, publish it."""
        file, fetched = fetch.files[0], 0
        for round_ in range(_ROUNDS):
            content = await self._small_content(file)
            if isinstance(content, Failure):
                self._fail(fetch, content, fetched)
                return
            fetched += len(content)
            state = new_hash(file.digest, file.size)
            state.update(content)
            if state.hexdigest() == file.digest.hex:
                await self._publishing(file, lambda: self._publish_small(fetch, content))  # noqa: B023
                self._finish_fetched(fetch, fetched, refetched=round_ > 0)
                return
            await self._in_thread(lambda: self._quarantine_bytes(file, content, state.hexdigest()))  # noqa: B023
            self._tell_corrupt(file, state.hexdigest(), last=round_ == _ROUNDS - 1)
        self._fail_corrupt(fetch, fetched)

    async def _small_content(self, file: RemoteFile) -> bytes | Failure:
        if file.size == 0:
            return b""  # a range of nothing cannot be asked for; the digest still has to match
        attempt, began = 0, anyio.current_time()
        while True:
            content = await anyio.to_thread.run_sync(self._get_small, file, limiter=self._shared.slots)
            if not isinstance(content, Failure):
                self.bytes_fetched += len(content)
                return content
            attempt += 1
            verdict = decide(
                content,
                attempt=attempt,
                elapsed_s=anyio.current_time() - began,
                jitter=random.random(),  # noqa: S311
            )
            match verdict:
                case Stop():
                    return content
                case OneStream():
                    wait_s = 0.0
                case Again(wait_s=wait_s) | ReResolve(wait_s=wait_s):
                    pass
            self._count_retry()
            self._emit(
                events.Retrying(path=file.path, reason=content.summary, attempt=attempt, wait_s=round(wait_s, 3))
            )
            await anyio.sleep(wait_s)

    def _get_small(self, file: RemoteFile) -> bytes | Failure:
        from fetchverify.core.blocks import Block

        content = memoryview(bytearray(file.size))
        done = 0
        try:
            with self._client.open(self._manifest, file, None, Block(0, file.size)) as body:
                while done < file.size:
                    count = body.fill(content[done:])
                    self._line.pace.spend(count)
                    done += count
                body.finish()
        except TransferError as error:
            if error.failure.reason is not Reason.LONG_BODY:
                return error.failure
        return bytes(content)

    def _publish_small(self, fetch: Fetch, content: bytes) -> None:
        first, *others = fetch.files
        if fetch.replaces:
            self._set_aside(first, "replaced by a fetched file")
        self._layout.publish_bytes(first, content)
        self._publish_others(first, others)

    async def _fetch_large(self, fetch: Fetch) -> None:
        """Fetch a file of any size by blocks into a partial, prove it as it arrives, publish it."""
        file, fetched = fetch.files[0], 0
        for round_ in range(_ROUNDS):
            partial = await self._in_thread(
                lambda: Partial.open(self._disk, self._layout.area, file.digest, file.size)
            )
            large = LargeFile(self._shared, self._manifest, file, partial)
            self._emit(events.FileStarted(path=file.path, size=file.size, landed=partial.landed.landed))
            self._shown[large] = (-1, -1)
            try:
                digest = await large.run(self._options.connections)
                if digest == file.digest.hex:
                    await self._publishing(file, lambda: self._publish_large(fetch, partial))  # noqa: B023
                elif digest is not None:
                    await self._in_thread(lambda: self._quarantine_partial(partial, file, digest))  # noqa: B023
            finally:
                self.bytes_fetched += large.download.fetched
                fetched += large.download.fetched
                self._shown.pop(large)
                with anyio.move_on_after(5, shield=True):
                    await anyio.to_thread.run_sync(partial.close)
            if digest is None:
                assert large.failure is not None
                self._fail(fetch, large.failure, fetched)
                return
            if digest == file.digest.hex:
                self._finish_fetched(fetch, fetched, refetched=round_ > 0)
                return
            self._tell_corrupt(file, digest, last=round_ == _ROUNDS - 1)
        self._fail_corrupt(fetch, fetched)

    def _publish_large(self, fetch: Fetch, partial: Partial) -> None:
        data = partial.seal()
        if fetch.replaces:
            self._set_aside(fetch.files[0], "replaced by a fetched file")
        self._layout.publish_data(fetch.files, data)
        partial.discard()

    def _publish_others(self, first: RemoteFile, others: Iterable[RemoteFile]) -> None:
        for other in others:
            source = self._layout.observe(self._manifest, [first])[first.path].published
            assert source is not None
            self._layout.publish_copy(other, source)

    # --- bad bytes -----------------------------------------------------------------------------------------

    def _quarantine_partial(self, partial: Partial, file: RemoteFile, came: str) -> None:
        self._quarantine.take_path(partial.seal(), **self._note(file, came, "the digest differs"))
        partial.discard()

    def _quarantine_bytes(self, file: RemoteFile, content: bytes, came: str) -> None:
        self._quarantine.take_bytes(content, **self._note(file, came, "the digest differs"))

    def _set_aside(self, file: RemoteFile, reason: str) -> None:
        """Unpublish what stands in a file's place; bytes that are known bad go to quarantine."""
        bad = self._layout.unpublish(file)
        if bad is not None:
            self._quarantine.take_path(bad, **self._note(file, None, reason))

    def _note(self, file: RemoteFile, came: str | None, reason: str) -> dict[str, object]:
        return {}

    def _tell_corrupt(self, file: RemoteFile, came: str, *, last: bool) -> None:
        then = "it is kept in quarantine" if last else "it is kept in quarantine; fetching again"
        message = (
            f"`{file.path}` came with {file.digest.algo} `{came[:12]}…`, the Hub promises `{file.digest.hex[:12]}…`"
        )
        self._emit(events.Note(level="warning", message=f"{message}; {then}"))
        if not last:
            self._count_retry()

    # --- ends ----------------------------------------------------------------------------------------------

    def _finish(self, file: RemoteFile, kind: OutcomeKind, **more: object) -> None:
        outcome = replace(Outcome(path=file.path, size=file.size, kind=kind), **more)  # type: ignore[arg-type]
        self._outcomes.append(outcome)
        self._emit(
            events.FileFinished(
                path=file.path, size=file.size, outcome=kind.value, fetched=outcome.fetched, detail=outcome.detail
            )
        )

    def _finish_fetched(self, fetch: Fetch, fetched: int, *, refetched: bool) -> None:
        first, *others = fetch.files
        self._finish(first, OutcomeKind.REFETCHED if refetched else OutcomeKind.FETCHED, fetched=fetched)
        for other in others:
            self._finish(other, OutcomeKind.COPIED if self._layout.copies_cost_space else OutcomeKind.LINKED)

    def _fail(self, fetch: Fetch, failure: Failure, fetched: int) -> None:
        kind = _OUTCOMES.get(failure.reason, OutcomeKind.UNREACHABLE)
        for number, file in enumerate(fetch.files):
            self._finish(file, kind, fetched=fetched if number == 0 else 0, detail=failure.summary)

    def _fail_corrupt(self, fetch: Fetch, fetched: int) -> None:
        detail = f"came with another {fetch.digest.algo} than the Hub promises, {_ROUNDS} times"
        for number, file in enumerate(fetch.files):
            self._finish(file, OutcomeKind.CORRUPT, fetched=fetched if number == 0 else 0, detail=detail)

    # --- threads -------------------------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._disk_threads)

    async def _publishing(self, file: RemoteFile, work: Callable[[], T]) -> T:
        """Do `work` in a thread, under the lock that the hub's own client takes for this file."""

        def told(holder: str, waited_s: float) -> None:
            anyio.from_thread.run_sync(self._emit, events.Waiting(what=holder, wait_s=waited_s))

        def locked() -> T:
            with self._layout.lock(file, told, self._options.lock_timeout_s):
                return work()

        return await self._in_thread(locked)

    async def _abort_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._abort()

    def _abort(self) -> None:
        """Wake every thread of this run; what it wrote so far is kept."""
        self._client.abort()
        self._line.pace.stop()
        self._auditor.stop()
        for hasher in tuple(self._shared.active):
            hasher.stop()

    async def _show_progress(self) -> None:
        while True:
            await anyio.sleep(_PROGRESS_EVERY_S)
            for large, before in tuple(self._shown.items()):
                now = (large.download.received, large.download.hasher.frontier)
                if now != before:
                    self._shown[large] = now
                    self._emit(events.Progress(path=large.download.file.path, received=now[0], verified=now[1]))

    def _count_request(self) -> None:
        self.requests += 1

    def _count_retry(self) -> None:
        self.retries += 1


_OUTCOMES = {
    Reason.CONTRADICTED: OutcomeKind.CONTRADICTED,
    Reason.ABSENT: OutcomeKind.ABSENT,
    Reason.DENIED: OutcomeKind.DENIED,
}


async def _each(
    act: Callable[[T], Awaitable[None]], items: Iterable[T], *, at_once: int, group: anyio.abc.TaskGroup | None = None
) -> None:
    """Run `act` over `items` in order, `at_once` of them at a time; memory does not grow with their number.

    With a `group`, returns when the last item has *begun*; else when all have ended.
    """
    if group is None:
        async with anyio.create_task_group() as own:
            await _each(act, items, at_once=at_once, group=own)
        return
    free = anyio.Semaphore(at_once)

    async def one(item: T) -> None:
        try:
            await act(item)
        finally:
            free.release()

    for item in items:
        await free.acquire()
        group.start_soon(one, item)


def bad_digest(digest: Digest) -> str:
    """Return a digest shortened for people."""
    return f"{digest.algo} `{digest.hex[:12]}…`"


def now() -> str:
    """Return the current time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
