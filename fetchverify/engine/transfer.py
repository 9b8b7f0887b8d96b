"""Carries out a `Plan`: proves what is there, links it, fetches the rest, publishes each file once it is proved."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.core.blocks import MiB
from fetchverify.core.leftover import Leftover
from fetchverify.core.manifest import Digest, Manifest, RemoteFile
from fetchverify.core.plan import SMALL_FILE, Fetch, Keep, Link, Plan, plan_fetch
from fetchverify.core.report import Outcome, OutcomeKind
from fetchverify.core.retry import Failure, Reason
from fetchverify.engine.hashing import new_hash
from fetchverify.engine.large import LargeFile
from fetchverify.engine.publish import Publisher
from fetchverify.engine.run import Run, TransferOptions
from fetchverify.engine.small import SmallFiles
from fetchverify.engine.suppliers import Choice
from fetchverify.engine.turn import await_partial
from fetchverify.errors import LockedError, ungrouped
from fetchverify.net.transport import Locator
from fetchverify.net.wire import Endpoint, access_hint
from fetchverify.store.disk import Disk
from fetchverify.store.layout import Layout
from fetchverify.store.partial import Partial

if TYPE_CHECKING:
    from fetchverify.engine.opinion import Opinion

T = TypeVar("T")

_PROGRESS_EVERY_S = 0.1
# More than are asked for at once: while some are published together, others are fetched. So many lie in memory, beside
# the buffers of large files: fewer of those that are not so small.
_LEAST_SMALL_AT_ONCE, _MOST_SMALL_AT_ONCE = 48, 192
_SMALL_IN_MEMORY = 12 * MiB
_QUITE_SMALL = SMALL_FILE // 4
_MIDDLING_AT_ONCE = 8
# While one file is synced and published, and the next one's address is asked for, others keep the line busy.
_LARGE_AT_ONCE = 4
# A digest that differs is fetched once more: a byte flipped once is healed, one flipped always is not paid for
# a third time.
_ROUNDS = 2
_OUTCOMES = {
    Reason.CONTRADICTED: OutcomeKind.CONTRADICTED,
    Reason.ABSENT: OutcomeKind.ABSENT,
    Reason.DENIED: OutcomeKind.DENIED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How one fetch of a large file ended.

    Attributes:
        digest: in hex; None where `failure` says why there is none.
        fetched: bytes.
        compared: every block was held against another supplier's.
        mended: which blocks were wrong and were replaced; None where none was.
    """

    digest: str | None
    failure: Failure | None
    fetched: int
    compared: bool
    mended: str | None


class Transfer:
    """One transfer over one repo; use `execute` once."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        layout: Layout,
        disk: Disk,
        endpoint: Endpoint,
        options: TransferOptions,
        emit: events.Emit,
        locator: Locator | None = None,
        mirrors: Sequence[Endpoint] = (),
    ) -> None:
        self.run = Run(manifest, endpoint, options, emit, locator, mirrors)
        self.publisher = Publisher(self.run, layout, disk, endpoint.host)
        self._layout = layout
        self._disk = disk
        self._endpoint = endpoint
        self._locator = locator
        self._emit = emit
        self._cores = os.cpu_count() or 1
        self._shown: dict[LargeFile, tuple[int, int]] = {}
        self._outcomes: dict[str, Outcome] = {}

    async def execute(self, plan: Plan) -> tuple[Outcome, ...]:
        """Bring every file of the plan to its end and return the outcomes in the manifest's order.

        Raises:
            DiskError: the disk is full or failing; partials are kept.
            LockedError: another process kept a lock for longer than the options allow.
        """
        for refusal in plan.refusals:
            self._finish(refusal.file, OutcomeKind.REFUSED, detail=refusal.why)
        try:
            with ungrouped():
                async with anyio.create_task_group() as group:
                    group.start_soon(self._abort_when_cancelled)
                    group.start_soon(self._show_progress)
                    group.start_soon(self.run.steer)
                    extra = await self._use_what_is_there(plan)
                    fetches = _merged([*plan.fetches, *extra]) if extra else list(plan.fetches)
                    del plan
                    if self.run.options.offline:
                        for fetch in fetches:
                            self._fail_all(fetch, OutcomeKind.ABSENT, 0, "not on this disk, or not right, and offline")
                    else:
                        await self._fetch_all(fetches)
                    group.cancel_scope.cancel()
        finally:
            self.run.suppliers.close()
        paths = (file.path for file in self.run.manifest.files)
        return tuple(self._outcomes[path] for path in paths if path in self._outcomes)

    # --- what is there -------------------------------------------------------------------------------------

    async def _use_what_is_there(self, plan: Plan) -> list[Fetch]:
        """Keep and link what can be proved; return the fetches of what could not."""
        extra: list[Fetch] = []

        async def keep(action: Keep) -> None:
            if await self.publisher.prove(action.file, action.copy):
                self._finish(action.file, OutcomeKind.KEPT)
            else:
                extra.append(Fetch(files=(action.file,), landed=0, replaces=(action.copy,)))

        async def link(action: Link) -> None:
            for copy in action.copies:
                if copy.proved or await self.publisher.prove(action.file, copy):
                    how = await self.publisher.link(action, copy)
                    self._finish(action.file, OutcomeKind.LINKED if how == "linked" else OutcomeKind.COPIED)
                    return
            replaces = (action.replaces or action.copies[0],)
            extra.append(Fetch(files=(action.file,), landed=0, replaces=replaces))

        # What needs no hashing needs no task either: a whole snapshot of 100,000 files is gone through in a loop.
        for action in plan.keeps:
            if action.copy.proved:
                self._finish(action.file, OutcomeKind.KEPT)
        await _each(keep, [action for action in plan.keeps if not action.copy.proved], at_once=2 * self._cores)
        await _each(link, plan.links, at_once=2 * self._cores)
        return extra

    # --- fetching ------------------------------------------------------------------------------------------

    async def _fetch_all(self, fetches: list[Fetch]) -> None:
        small = [fetch for fetch in fetches if fetch.files[0].size <= SMALL_FILE]
        large = [fetch for fetch in fetches if fetch.files[0].size > SMALL_FILE]
        fetches.clear()
        async with anyio.create_task_group() as group:
            # Small files first, in a bunch; the large ones follow as soon as no small one waits for a connection.
            middling = [fetch for fetch in small if fetch.size > _QUITE_SMALL]
            if middling:
                small = [fetch for fetch in small if fetch.size <= _QUITE_SMALL]
            files = SmallFiles(self.run, group)
            fetch_small = functools.partial(self._small, files)
            largest = max((fetch.size for fetch in small), default=1)
            at_once = min(_MOST_SMALL_AT_ONCE, max(_LEAST_SMALL_AT_ONCE, _SMALL_IN_MEMORY // max(1, largest)))
            await _each(fetch_small, _emptied(small), at_once=at_once, group=group)
            await _each(fetch_small, _emptied(middling), at_once=_MIDDLING_AT_ONCE, group=group)
            files.close()
            await _each(self._large, large, at_once=max(_LARGE_AT_ONCE, self._cores), group=group)

    async def _small(self, files: SmallFiles, fetch: Fetch) -> None:
        """Fetch into memory, prove it there, publish."""
        file, fetched, choice = fetch.files[0], 0, Choice(self.run.suppliers, fetch.files[0])
        liars: list[str] = []
        rounds = max(_ROUNDS, len(self.run.suppliers.all))
        for round_ in range(rounds):
            content, supplier = await files.fetch(file, choice)
            if isinstance(content, Failure):
                self._fail(fetch, content, fetched)
                return
            fetched += len(content)
            state = new_hash(file.digest, file.size)
            state.update(content)
            if state.hexdigest() == file.digest.hex:
                await self.publisher.small(fetch, content)
                detail = f"`{'`, `'.join(liars)}` sent other bytes" if liars and self.run.suppliers.several else None
                self._finish_fetched(fetch, fetched, refetched=round_ > 0, detail=detail)
                return
            choice.bad[supplier] += 1
            liars.append(supplier.name)
            await self.publisher.quarantine_bytes(file, content, state.hexdigest(), supplier.endpoint.host)
            self._tell_corrupt(file, state.hexdigest(), last=round_ == rounds - 1)
            self.run.suppliers.note_lie([supplier.number])
        self._fail_corrupt(fetch, fetched, rounds)

    async def _large(self, fetch: Fetch) -> None:
        """Fetch by blocks into a partial, prove it as it arrives, publish."""
        file, fetched = fetch.files[0], 0
        for round_ in range(_ROUNDS):
            partial = await await_partial(
                self.run, self.publisher, self._disk, self._layout.area, file, functools.partial(self._arrived, fetch)
            )
            if partial is None:
                return
            taken = await self.publisher.in_thread(functools.partial(self._take_leftovers, file, partial))
            end = await self._large_once(fetch, partial, taken)
            fetched += end.fetched
            if end.failure is not None:
                self._fail(fetch, end.failure, fetched)
                return
            if end.digest == file.digest.hex:
                self._finish_fetched(fetch, fetched, refetched=round_ > 0 or end.mended is not None, detail=end.mended)
                return
            # Where every block was seen from two endpoints, nobody has anything else to tell.
            last = end.compared or round_ == _ROUNDS - 1
            self._tell_corrupt(file, end.digest or "", last=last)
            if last:
                self._fail_corrupt(fetch, fetched, _ROUNDS)
                return

    async def _arrived(self, fetch: Fetch, waited: bool) -> bool:
        """Use what another run published since the plan was made; False where it is not there, or not right."""
        if self.run.options.force or (fetch.replaces and not waited):
            return False  # what is there was found wrong, and nobody has been at it
        named = any((self._layout.target / file.path).exists() for file in fetch.files)
        if self._layout.copies_cost_space and not named and not waited:
            return False  # to look for copies in a folder takes a look at all its files
        seen = await self.publisher.in_thread(lambda: self._layout.observe(self.run.manifest, fetch.files))
        plan = plan_fetch(fetch.files, seen, copies_cost_space=self._layout.copies_cost_space)
        return not (plan.fetches or plan.refusals or await self._use_what_is_there(plan))

    def _take_leftovers(self, file: RemoteFile, partial: Partial) -> list[Leftover]:
        """Take over what others left of this file, unless they are still at it; return what was of use."""
        taken: list[Leftover] = []
        if self.run.options.force or not partial.takes_leftovers or not partial.landed.missing():
            return taken
        with suppress(LockedError), self._layout.lock(file, lambda what, waited_s: None, 0):
            for leftover in self._layout.leftovers(file):
                size = partial.adopt(leftover)
                if size:
                    taken.append(leftover)
                    message = f"`{file.path}`: {size:,} bytes that {leftover.whose} left are taken over, to be proved"
                    anyio.from_thread.run_sync(self._emit, events.Note(level="info", message=message))
        return taken

    async def _large_once(self, fetch: Fetch, partial: Partial, taken: Sequence[Leftover]) -> _End:
        """Fetch once; publish it, or set it aside."""
        file = fetch.files[0]
        large = LargeFile(self.run, file, partial)
        self._emit(events.FileStarted(path=file.path, size=file.size, landed=partial.landed.landed))
        self._shown[large] = (-1, -1)
        opinion, mended, before = None, None, 0
        try:
            digest = await large.run(self.run.options.connections)
            if digest not in (None, file.digest.hex) and partial.adopted:
                mended = f"{len(partial.adopted)} of {partial.tiling.count} blocks from {_whose(taken)} were bad"
                self._emit(events.Note(level="warning", message=f"`{file.path}`: {mended}; they are fetched now"))
                await self.publisher.in_thread(partial.refuse_leftovers)
                before, taken = large.download.fetched, ()
                self.run.bytes_fetched += before
                self._shown.pop(large)
                large = LargeFile(self.run, file, partial)
                self._shown[large] = (-1, -1)
                digest = await large.run(self.run.options.connections)
            if digest not in (None, file.digest.hex) and self.run.suppliers.several:
                from fetchverify.engine.opinion import SecondOpinion

                opinion = await SecondOpinion(self.run, file, partial, self._disk, large.choice, large.came).ask()
                digest = file.digest.hex if opinion.proved else digest
            if digest == file.digest.hex:
                mended = mended if opinion is None else await self._mended(file, opinion, partial.tiling.count)
                # What a leftover held is proved now, with the whole file: no bad copy that would be worth keeping.
                proved = {str(leftover.where) for leftover in taken}
                good = replace(fetch, replaces=tuple(copy for copy in fetch.replaces if copy.where not in proved))
                controls = [leftover.control for leftover in taken if leftover.control is not None]
                await self.publisher.large(good, partial, controls)
            elif digest is not None:
                givers = self._givers(large)
                await self.publisher.quarantine_partial(partial, file, digest, ", ".join(givers) or None)
        finally:
            self.run.bytes_fetched += large.download.fetched
            self._shown.pop(large)
            with anyio.move_on_after(5, shield=True):
                await anyio.to_thread.run_sync(partial.close)
        return _End(
            digest=digest,
            failure=large.failure,
            fetched=before + large.download.fetched + (0 if opinion is None else opinion.fetched),
            compared=opinion is not None and opinion.complete,
            mended=mended,
        )

    async def _mended(self, file: RemoteFile, opinion: Opinion, blocks: int) -> str:
        """Keep what was replaced, leave out who sent it; return the story in a sentence."""
        named = self.run.suppliers.all
        hosts = ", ".join(named[number].endpoint.host for number in sorted(opinion.liars)) or "an earlier run"
        for path, indexes in opinion.bad:
            await self.publisher.quarantine_blocks(path, file, indexes, hosts)
        liars = "`, `".join(named[number].name for number in sorted(opinion.liars)) or "an earlier run"
        right = "`, `".join(named[number].name for number in sorted(opinion.witnesses))
        self.run.suppliers.note_lie(opinion.liars)
        self.run.retries += 1
        return f"{opinion.blocks} of {blocks} blocks from `{liars}` were wrong and came from `{right}` instead"

    def _givers(self, large: LargeFile) -> list[str]:
        """Return the hosts that a file came from, where that was not all from the first endpoint."""
        numbers = set().union(*large.came.values())
        return [each.endpoint.host for each in self.run.suppliers.all if each.number in numbers]

    # --- ends ----------------------------------------------------------------------------------------------

    def _finish(
        self,
        file: RemoteFile,
        kind: OutcomeKind,
        *,
        fetched: int = 0,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        self._outcomes[file.path] = Outcome(
            path=file.path, size=file.size, kind=kind, fetched=fetched, detail=detail, hint=hint
        )
        self._emit(
            events.FileFinished(path=file.path, size=file.size, outcome=kind.value, fetched=fetched, detail=detail)
        )

    def _finish_fetched(self, fetch: Fetch, fetched: int, *, refetched: bool, detail: str | None = None) -> None:
        first, *others = fetch.files
        kind = OutcomeKind.REFETCHED if refetched else OutcomeKind.FETCHED
        self._finish(first, kind, fetched=fetched, detail=detail)
        for other in others:
            self._finish(other, OutcomeKind.COPIED if self._layout.copies_cost_space else OutcomeKind.LINKED)

    def _fail(self, fetch: Fetch, failure: Failure, fetched: int) -> None:
        kind = _OUTCOMES.get(failure.reason, OutcomeKind.UNREACHABLE)
        hint = None
        if kind is OutcomeKind.DENIED:
            hint = self._access_hint(failure)
        self._fail_all(fetch, kind, fetched, failure.summary, hint)

    def _access_hint(self, failure: Failure) -> str:
        if self._locator is not None:
            return self._locator.hint(failure)
        return access_hint(self._endpoint, self.run.manifest.ref, failure)

    def _fail_corrupt(self, fetch: Fetch, fetched: int, rounds: int) -> None:
        detail = f"came with another {fetch.digest.algo} than {self.run.promiser} promises, {rounds} times"
        self._fail_all(fetch, OutcomeKind.CORRUPT, fetched, detail)

    def _fail_all(self, fetch: Fetch, kind: OutcomeKind, fetched: int, detail: str, hint: str | None = None) -> None:
        for number, file in enumerate(fetch.files):
            self._finish(file, kind, fetched=fetched if number == 0 else 0, detail=detail, hint=hint)

    def _tell_corrupt(self, file: RemoteFile, came: str, *, last: bool) -> None:
        then = "the bad copy is in quarantine" + ("" if last else ", fetching again")
        algo, promised = file.digest.algo, file.digest.hex
        message = (
            f"`{file.path}` came with {algo} `{came[:12]}…`, {self.run.promiser} promises `{promised[:12]}…`; {then}"
        )
        self._emit(events.Note(level="warning", message=message))
        if not last:
            self.run.retries += 1

    # --- beside the files ----------------------------------------------------------------------------------

    async def _abort_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.run.abort()

    async def _show_progress(self) -> None:
        while True:
            await anyio.sleep(_PROGRESS_EVERY_S)
            for large, before in tuple(self._shown.items()):
                now = (large.download.received, large.download.hasher.frontier)
                if now != before:
                    self._shown[large] = now
                    self._emit(events.Progress(path=large.download.file.path, received=now[0], verified=now[1]))


def _merged(fetches: Iterable[Fetch]) -> list[Fetch]:
    """Return one fetch a digest: files that shared a copy which proved to be bad share what comes in its place."""
    merged: dict[Digest, Fetch] = {}
    for fetch in fetches:
        before = merged.get(fetch.digest)
        merged[fetch.digest] = (
            fetch
            if before is None
            else replace(before, files=before.files + fetch.files, replaces=before.replaces + fetch.replaces)
        )
    return list(merged.values())


def _whose(taken: Sequence[Leftover]) -> str:
    names = " and ".join(dict.fromkeys(leftover.whose for leftover in taken))
    return f"a leftover of {names}" if names else "a leftover of an earlier download"


def _emptied(items: list[T]) -> Iterator[T]:
    """Yield the items in order and let go of them: 100,000 plans need not be kept beside as many outcomes."""
    items.reverse()
    while items:
        yield items.pop()


async def _each(
    act: Callable[[T], Awaitable[None]], items: Iterable[T], *, at_once: int, group: anyio.abc.TaskGroup | None = None
) -> None:
    """Run `act` over `items` in order, `at_once` of them at a time; tasks do not grow with the number of items.

    With a `group`, returns when the last item has begun; else when all have ended.
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
        try:
            free.acquire_nowait()  # all that may begin does so before any of them runs
        except anyio.WouldBlock:
            await free.acquire()
        group.start_soon(one, item)
