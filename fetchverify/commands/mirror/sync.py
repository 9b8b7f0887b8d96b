"""`mirror sync`: one run over all entries; what moved is fetched, published whole, pruned and told."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread

from fetchverify import events
from fetchverify.commands.get import DryRun, GetOptions
from fetchverify.commands.get import run as get
from fetchverify.commands.mirror import targets
from fetchverify.commands.mirror.hooks import Heralds
from fetchverify.commands.mirror.places import CachePlace, FolderPlace, Place, Wanted
from fetchverify.commands.mirror.setting import Setting, load
from fetchverify.commands.mirror.targets import Answer, Target
from fetchverify.core.manifest import Commit, Manifest, RepoRef
from fetchverify.core.mirrorconfig import Entry
from fetchverify.core.mirrored import Done, Fate, SyncReport
from fetchverify.core.mirrorstate import RepoState
from fetchverify.core.report import Report
from fetchverify.core.retry import patience
from fetchverify.errors import (
    AbsentError,
    DiskError,
    ExitCode,
    FetchverifyError,
    LockedError,
    NetworkError,
    UsageError,
)
from fetchverify.net.hub import Head, Hub
from fetchverify.net.wire import Endpoint

# The next run tries again; a run that waits for hours would hold up everything behind it.
_RETRIES = 4
_SAVE_EVERY_S = 5.0
_MOST_SILENCES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """What `fetchverify mirror sync` was asked for.

    Attributes:
        repos: only these, `org/name`; all where empty.
        wait: for another run on this mirror, rather than give up.
        now: also what failed often, and outside the window.
        clock: Unix seconds.
    """

    config: Path
    repos: tuple[str, ...] = ()
    wait: bool = False
    now: bool = False
    dry_run: bool = False
    clock: Callable[[], float] = time.time


async def run(options: SyncOptions, emit: events.Emit) -> SyncReport:
    """Bring the mirror to where the Hub is.

    Raises:
        UsageError: the config is not valid.
        LockedError: another run is at work.
        DiskError: the mirror's own book cannot be written.
    """
    setting = await anyio.to_thread.run_sync(load, options.config)
    async with alone(setting, emit, wait=options.wait):
        return await _Sync(setting, options, emit).run()


@asynccontextmanager
async def alone(setting: Setting, emit: events.Emit, *, wait: bool) -> AsyncIterator[None]:
    """Hold the mirror's lock; with `wait`, however long another run takes.

    Raises:
        LockedError: another run is at work.
    """
    began = time.monotonic()
    while True:
        # Entered and left on this thread: the lock knows its owner by it.
        held = setting.book.lock(lambda what, waited_s: None, 0)
        try:
            held.__enter__()
            break
        except LockedError as error:
            if not wait:
                raise
            emit(events.Waiting(what=error.message, wait_s=None, waited_s=time.monotonic() - began))
        await anyio.sleep(1)
    try:
        yield
    finally:
        held.__exit__(None, None, None)


class _Sync:
    """One run."""

    def __init__(self, setting: Setting, options: SyncOptions, emit: events.Emit) -> None:
        self._setting = setting
        self._config = setting.config
        self._options = options
        self._emit = emit
        self._clock = options.clock
        self._endpoints = Endpoint.several(self._config.endpoints or None, setting.token)
        self._states: dict[RepoRef, RepoState] = {}
        self._done: dict[RepoRef, Done] = {}
        self._heads: dict[RepoRef, Head] = {}
        self._saved_at = time.monotonic()

    async def run(self) -> SyncReport:
        began = time.monotonic()
        self._states = await anyio.to_thread.run_sync(self._setting.book.load)
        heralds = Heralds(self._config.hooks, self._emit)
        left_s = self._window_left_s()
        if left_s == 0:
            # Silent: cron begins a run every hour, and most of them are outside.
            return SyncReport(folder=str(self._setting.folder), done=(), seconds=0.0, notes=("the window is closed",))
        quiet = self._options.dry_run
        if not quiet:
            await heralds.began()
        # Asking takes its time, too, above all within a quota.
        until = math.inf if left_s is None else anyio.current_time() + left_s
        try:
            found, requests = await self._round(heralds, until)
        except FetchverifyError as error:
            if not quiet:
                message = error.message
                await heralds.ended(lambda: message, failed=True)
            raise
        report = SyncReport(
            folder=str(self._setting.folder),
            done=tuple(self._done[target.ref] for target in found),
            seconds=time.monotonic() - began,
            requests=requests,
            prometheus=None if self._setting.prometheus is None else str(self._setting.prometheus),
        )
        if not quiet:
            await heralds.ended(lambda: json.dumps(report.as_json()), failed=report.exit_code is not ExitCode.CLEAN)
        return report

    async def _round(self, heralds: Heralds, until: float) -> tuple[list[Target], int]:
        """Ask, fetch until a point in time, note; return what there was to do, and the number of requests."""
        try:
            async with Hub(self._endpoints[0], emit=self._emit, patience=patience(_RETRIES)) as hub:
                every = await targets.find(hub, self._config.entries, list(self._states.values()))
                self._forget_accounts(every)
                found = self._chosen(every)
                await self._look(hub, found)
                with anyio.CancelScope(deadline=until):
                    await self._fetch_all(hub, found, heralds)
                for target in found:
                    if target.ref not in self._done:
                        self._note(target.ref, Fate.POSTPONED)
                return found, hub.requests
        finally:
            if not self._options.dry_run:
                with anyio.CancelScope(shield=True):
                    await self._save()

    def _window_left_s(self) -> float | None:
        """Return how long bytes may be fetched; None for ever."""
        window = self._config.window
        if window is None or self._options.now:
            return None
        local = time.localtime(self._clock())
        return window.minutes_left(local.tm_hour * 60 + local.tm_min) * 60.0

    def _chosen(self, found: list[Target]) -> list[Target]:
        names = set(self._options.repos)
        accounts = {target.entry.author for target in found if target.is_account}
        unlisted = {name for name in names if name.split("/")[0] in accounts}
        unknown = names - unlisted - {target.ref.repo_id for target in found}
        if unknown:
            raise UsageError(f"this mirror has no `{min(unknown)}`", hint=f"see `{self._options.config}`")
        names |= {f"{name.split('/')[0]}/*" for name in unlisted}
        return [target for target in found if not names or target.ref.repo_id in names]

    def _forget_accounts(self, found: list[Target]) -> None:
        """Let go of the accounts that could not be listed once, and can be now."""
        wanted = {target.ref for target in found}
        for ref in [ref for ref in self._states if ref.repo_id.endswith("/*") and ref not in wanted]:
            del self._states[ref]

    async def _save(self) -> None:
        await anyio.to_thread.run_sync(self._setting.book.save, list(self._states.values()))
        self._saved_at = time.monotonic()

    # --- asking ----------------------------------------------------------------------------------------------

    async def _look(self, hub: Hub, found: list[Target]) -> None:
        """Ask where every revision stands that is due; what is fresh is done then."""
        now = self._clock()
        due = []
        for target in found:
            state = self._state(target)
            if self._options.now or state.is_due(now):
                due.append(target)
            else:
                self._note(target.ref, Fate.RESTING, detail=state.error, news=False)
        # What failed goes last: a few that never answer must not look like an endpoint that does not.
        due.sort(key=lambda target: self._states[target.ref].error is not None)
        here = await anyio.to_thread.run_sync(lambda: {target.ref: self._is_here(target) for target in due})
        try:
            await targets.ask(
                hub,
                due,
                lambda ref: self._states[ref].etag if here[ref] else None,
                lambda answer: self._hear(answer, here=here[answer.target.ref]),
            )
        except NetworkError as error:
            # Who was heard before is fetched, as far as that goes.
            self._nobody_there([target for target in found if target.ref not in self._heads], error)

    def _state(self, target: Target) -> RepoState:
        return self._states.setdefault(target.ref, RepoState(ref=target.ref))

    def _is_here(self, target: Target) -> bool:
        """Return whether readers see what the last run published, all of what is asked for now."""
        state = self._states[target.ref]
        return (
            state.commit is not None
            and state.commit == self._place(target.ref).current(target.ref.revision)
            and state.selection == target.entry.selection
            and not state.damaged
        )

    def _hear(self, answer: Answer, *, here: bool) -> None:
        ref, now = answer.target.ref, self._clock()
        state = self._states[ref]
        if answer.target.error is not None and not answer.target.is_account:
            self._states[ref] = state.unheard(answer.target.error.message)
            self._note(ref, Fate.UNREACHED, detail=answer.target.error.message, news=False)
            return
        if answer.error is not None and answer.silent:
            self._states[ref] = state.unheard(answer.error.message)
            return
        if answer.error is not None:
            self._fail(ref, answer.error)
            return
        head = answer.head or Head(
            commit=state.commit or Commit(""), repo_id=state.renamed_to or ref.repo_id, etag=state.etag
        )
        renamed = head.repo_id if head.repo_id != ref.repo_id else None
        told = renamed is None or renamed == state.renamed_to
        if here and head.commit == state.commit:
            self._states[ref] = state.seen_fresh(now, etag=head.etag, renamed_to=renamed)
            detail = None if renamed is None else f"its name is `{renamed}` now"
            self._note(ref, Fate.FRESH, detail=detail, news=not told)
        else:
            self._heads[ref] = head
            self._states[ref] = state.moved(now, renamed_to=renamed)

    def _nobody_there(self, found: list[Target], error: NetworkError) -> None:
        """Note that the endpoint is down; that is no fault of the repos', and makes none of them wait."""
        for number, target in enumerate(each for each in found if each.ref not in self._done):
            self._heads.pop(target.ref, None)
            self._note(target.ref, Fate.UNREACHED, detail=error.message, hint=error.hint, news=number == 0)

    def _fail(self, ref: RepoRef, error: FetchverifyError) -> None:
        before, now = self._states[ref], self._clock()
        if isinstance(error, AbsentError) and error.gone and before.commit is not None:
            self._states[ref] = before.missed(now, error.message)
            self._note(ref, Fate.GONE, detail=error.message, hint=error.hint, news=not before.gone_since)
        else:
            self._states[ref] = before.failed(now, error.message)
            self._note(ref, Fate.FAILED, detail=error.message, hint=error.hint)

    def _note(
        self,
        ref: RepoRef,
        fate: Fate,
        *,
        before: Commit | None = None,
        fetched: int = 0,
        detail: str | None = None,
        hint: str | None = None,
        news: bool = True,
    ) -> None:
        state = self._states[ref]
        path = None if state.commit is None else str(self._place(ref).path(state.commit))
        self._done[ref] = Done(
            ref=ref,
            fate=fate,
            before=before or state.commit,
            after=state.commit,
            path=path,
            fetched=fetched,
            failures=state.failures,
            detail=detail,
            hint=hint,
            news=news,
        )

    # --- fetching --------------------------------------------------------------------------------------------

    async def _fetch_all(self, hub: Hub, found: list[Target], heralds: Heralds) -> None:
        """Fetch what moved, what waited longest first; one that fails never stops the others."""
        silences = 0
        waiting = [target for target in found if target.ref in self._heads]
        for target in sorted(waiting, key=self._turn):
            if self._options.dry_run:
                self._note(target.ref, Fate.DUE)
                continue
            try:
                await self._fetch(hub, target, heralds)
            except FetchverifyError as error:
                self._fail(target.ref, error)
                silences = silences + 1 if isinstance(error, NetworkError) else 0
                if silences >= _MOST_SILENCES and isinstance(error, NetworkError):
                    self._nobody_there(waiting, error)
                    return
            else:
                silences = 0
            # Not after each: the whole book is written, and what it lacks after a crash is seen on disk.
            if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
                await self._save()
        if self._config.purge and not self._options.dry_run:
            await anyio.to_thread.run_sync(self._purge)

    def _turn(self, target: Target) -> tuple[bool, float]:
        """Return what decides who comes first: what failed goes last, or three such would stop all others for ever."""
        state = self._states[target.ref]
        return state.failures > 0, state.succeeded

    async def _fetch(self, hub: Hub, target: Target, heralds: Heralds) -> None:
        """Bring one revision here, whole, and let readers see it; then let go of what is too old.

        Raises:
            FetchverifyError: it could not be; readers see what they saw.
        """
        ref, entry, place = target.ref, target.entry, self._place(target.ref)
        before = self._states[ref]
        wanted = Wanted(manifest=await self._manifest(hub, ref, place), include=entry.include, exclude=entry.exclude)
        others = [head.commit for other, head in self._heads.items() if other != ref and other.repo_id == ref.repo_id]
        staging = await anyio.to_thread.run_sync(place.staging, wanted, others)
        # In a cache the revision's own ref moves; aside nothing has a name yet.
        source = ref if staging is None else replace(ref, revision=wanted.manifest.commit)
        report = await self._get(source, entry, staging)
        # A window that closes now finds it done: half of what follows would be told wrong by the next run.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(place.publish, wanted, staging, ref.revision)
            done = self._published(target, report)
            if done.after is not None and done.path is not None and done.fate is Fate.CHANGED:
                await heralds.changed(ref, done.after, done.path)
            await anyio.to_thread.run_sync(self._prune, ref, entry, place)
        for damaged in before.damaged:
            if damaged != report.commit and place.path(damaged).is_dir():
                folder = await anyio.to_thread.run_sync(place.mending, ref, damaged)
                await self._mend(replace(ref, revision=damaged), entry, folder)
        self._states[ref] = replace(self._states[ref], damaged=())

    async def _mend(self, ref: RepoRef, entry: Entry, folder: Path | None) -> None:
        """Fetch what is bad in an older commit; the Hub may have it no more, which must not hold up the newest."""
        try:
            await self._get(ref, entry, folder)
        except (NetworkError, DiskError, LockedError):
            raise
        except FetchverifyError as error:
            words = f"{ref.kind} `{ref.repo_id}`: commit {ref.revision[:8]} stays damaged: {error.message}"
            self._emit(events.Note(level="warning", message=words))

    def _published(self, target: Target, report: Report) -> Done:
        ref, before = target.ref, self._states[target.ref]
        state = before.published(
            self._clock(),
            Commit(report.commit),
            selection=target.entry.selection,
            files=len(report.outcomes),
            size=sum(outcome.size for outcome in report.outcomes),
        )
        fetched = sum(outcome.fetched for outcome in report.outcomes)
        head = self._heads.pop(ref)
        etag = head.etag if head.commit == report.commit else None
        self._states[ref] = replace(state, etag=etag, fetched=before.fetched + fetched)
        mended = before.damaged and state.commit == before.commit
        self._note(ref, Fate.MENDED if mended else Fate.CHANGED, before=before.commit, fetched=fetched)
        return self._done[ref]

    async def _manifest(self, hub: Hub, ref: RepoRef, place: Place) -> Manifest:
        """Return what the commit holds; in a cache `get` asks for it itself."""
        commit = self._heads[ref].commit
        if isinstance(place, CachePlace):
            return Manifest(ref=ref, commit=commit, files=())
        return await hub.manifest(replace(ref, revision=commit))

    async def _get(self, ref: RepoRef, entry: Entry, staging: Path | None) -> Report:
        options = GetOptions(
            repo=ref.repo_id,
            repo_type=ref.kind,
            revision=ref.revision,
            include=entry.include,
            exclude=entry.exclude,
            to=staging,
            cache_dir=self._setting.folder,
            endpoint=tuple(endpoint.url for endpoint in self._endpoints),
            token=self._setting.token,
            connections=self._config.connections,
            limit_rate=self._config.limit_rate,
            retries=_RETRIES,
        )
        report = await get(options, self._emit)
        assert not isinstance(report, DryRun)
        bad = [outcome for outcome in report.outcomes if outcome.kind.exit_code]
        if bad:
            words = f"`{bad[0].path}`: {bad[0].detail or bad[0].kind.value}"
            more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
            kind = NetworkError if report.exit_code is ExitCode.NETWORK else FetchverifyError
            raise kind(f"{ref.kind} `{ref.repo_id}`: {words}{more}", hint=bad[0].hint)
        return report

    def _prune(self, ref: RepoRef, entry: Entry, place: Place) -> None:
        own = {
            state.ref.revision: state
            for state in self._states.values()
            if (state.ref.kind, state.ref.repo_id) == (ref.kind, ref.repo_id)
        }
        place.prune(own, entry.keep)
        for state in own.values():
            here = tuple(commit for commit in state.commits if place.path(commit).is_dir())
            self._states[state.ref] = replace(state, commits=here)

    def _purge(self) -> None:
        """Remove what the Hub has said for a day that it does not have: all revisions of a repo, or none."""
        now = self._clock()
        # Said in this very run: an endpoint that answers nobody has not said it again.
        gone = {ref for ref, done in self._done.items() if done.fate is Fate.GONE}
        repos: dict[tuple[str, str], list[RepoState]] = {}
        for state in self._states.values():
            repos.setdefault((state.ref.kind, state.ref.repo_id), []).append(state)
        for states in repos.values():
            if all(state.ref in gone and state.may_purge(now) for state in states):
                self._place(states[0].ref).remove()
                for state in states:
                    self._note(state.ref, Fate.PURGED, detail=state.error)
                    del self._states[state.ref]

    def _place(self, ref: RepoRef) -> Place:
        kind = CachePlace if self._config.layout == "cache" else FolderPlace
        return kind(self._setting.disk, self._setting.folder, ref)
