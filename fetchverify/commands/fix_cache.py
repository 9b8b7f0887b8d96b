"""`fix-cache`: verify, plan, repair, look again; over some repos of the cache, or all."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.commands.garbage import without_collector
from fetchverify.commands.purging import purge
from fetchverify.commands.verify import Job, Verification, VerifyOptions
from fetchverify.core.facts import CacheFacts
from fetchverify.core.findings import Finding, Kind, Rank, judge_store
from fetchverify.core.fixed import FixedPlace, FixReport
from fetchverify.core.manifest import Manifest, RemoteFile, RepoKind, RepoRef
from fetchverify.core.plan import Plan, plan_fetch
from fetchverify.core.purge import PurgeOptions
from fetchverify.core.reference import parse_reference
from fetchverify.core.repair import Act, Repair, Step, good_blobs, plan_repair, seen_state
from fetchverify.core.report import Outcome
from fetchverify.core.retry import PATIENT, patience
from fetchverify.core.verified import Place
from fetchverify.engine.run import TransferOptions
from fetchverify.errors import AbsentError, DiskError, ExitCode, FetchverifyError, LockedError
from fetchverify.store import sharedblobs
from fetchverify.store.area import Area
from fetchverify.store.blockmap import load_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import is_failing
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.mending import Mender, seed_partial
from fetchverify.store.owner import Life, look, myself
from fetchverify.store.survey import busy, held_locks, repo_folders, survey_cache, survey_store
from fetchverify.store.twins import relink_twins

if TYPE_CHECKING:
    from fetchverify.engine.transfer import Transfer

_STORE = "shared blobs"
_MOST_FOLDERS_DEEP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FixOptions:
    """What `fetchverify fix-cache` was asked for; None means "as the hub client does"."""

    repos: tuple[str, ...] = ()
    repo_type: RepoKind | None = None
    cache_dir: Path | None = None
    endpoint: str | None = None
    token: str | None = None
    offline: bool = False
    dry_run: bool = False
    deep: bool = False
    connections: int = 16
    limit_rate: int | None = None
    retries: int = PATIENT.attempts
    lock_timeout_s: float | None = None
    purge: PurgeOptions = field(default_factory=PurgeOptions)
    empty_quarantine: bool = False


async def run(options: FixOptions, emit: events.Emit) -> FixReport:
    """Repair what can be proved; what is whole is never touched, unless a purge was asked for.

    Raises:
        FetchverifyError: a named repo is not in the cache, or the disk is full or failing.
    """
    return await _Fix(options, emit).run()


@dataclass(slots=True, kw_only=True)
class _Repo:
    """One repo between its survey and its end."""

    folder: str
    cache: HubCache
    job: Job
    place: Place
    repair: Repair
    done: list[Step] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def facts(self) -> CacheFacts:
        assert isinstance(self.job.facts, CacheFacts)
        return self.job.facts


class _Fix:
    """One run's state."""

    def __init__(self, options: FixOptions, emit: events.Emit) -> None:
        self._options = options
        self._emit = emit
        self._disk = Disk()
        self._fetched = self._freed = self._requests = 0
        self._mended: set[str] = set()  # payloads of the shared store, and other repos' hard links

    async def run(self) -> FixReport:
        from huggingface_hub import constants

        options, began = self._options, time.monotonic()
        cache_dir = (options.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
        verification = self._verification()
        with without_collector():
            async with verification.asking():
                folders = self._folders(cache_dir, verification)
                repos = [await self._look(verification, cache_dir, folder) for folder in folders]
                network = _network(repos)
                places: list[FixedPlace] = []
                for seen in repos:
                    stale = seen.repair.bad & self._mended
                    repo = await self._look(verification, cache_dir, seen.folder) if stale else seen
                    places.append(await self._fix(verification, cache_dir, repo))
                if not options.repos:
                    places += await anyio.to_thread.run_sync(self._fix_store, cache_dir, folders)
                self._requests += 0 if verification.hub is None else verification.hub.requests
        if options.purge.asked or options.empty_quarantine:
            places = await self._purge(cache_dir, folders, places)
        return FixReport(
            places=tuple(places),
            dry_run=options.dry_run,
            bytes_fetched=self._fetched,
            bytes_freed=self._freed,
            seconds=round(time.monotonic() - began, 3),
            requests=self._requests,
            network=network,
        )

    def _verification(self) -> Verification:
        options = self._options
        given = VerifyOptions(
            all=True,
            endpoint=options.endpoint,
            token=options.token,
            offline=options.offline,
            deep=options.deep,
            blocks_first=not options.deep,
            retries=options.retries,
        )
        return Verification(given, self._emit)

    def _folders(self, cache_dir: Path, verification: Verification) -> list[str]:
        there = repo_folders(cache_dir)
        if not self._options.repos:
            return there
        hosts = () if verification.endpoint is None else (verification.endpoint.place,)
        found = []
        for text in self._options.repos:
            ref = parse_reference(text, kind=self._options.repo_type, hosts=hosts).ref
            folder = repo_folder_name(ref.kind, ref.repo_id)
            if folder not in there:
                raise AbsentError(
                    f"{ref.kind} `{ref.repo_id}` is not in the cache `{cache_dir}`",
                    hint="`fetchverify verify --all` names what is there",
                )
            found.append(folder)
        return list(dict.fromkeys(found))

    async def _look(self, verification: Verification, cache_dir: Path, folder: str) -> _Repo:
        job = await verification.survey_repo(cache_dir, folder)
        await verification.measure([job])
        place = await anyio.to_thread.run_sync(verification.judge_repo, job)
        assert isinstance(job.facts, CacheFacts)
        repair = plan_repair(
            job.facts, place.verdict.findings, job.promised, job.answers, offline=verification.hub is None
        )
        return _Repo(folder=folder, cache=HubCache(self._disk, cache_dir, folder), job=job, place=place, repair=repair)

    # -- one repo -----------------------------------------------------------------------------------------------

    async def _fix(self, verification: Verification, cache_dir: Path, repo: _Repo) -> FixedPlace:
        if not self._options.dry_run:
            repo = await self._open_folders(verification, cache_dir, repo)
        repair = repo.repair
        name = repo.place.repo_id or repo.folder
        if not self._options.dry_run and not repair.steps and repair.left:
            await anyio.to_thread.run_sync(self._ask_the_disk, repo)
        if self._options.dry_run or not repair.steps:
            return _fixed(repo, name, [*repo.done, *repair.steps], repair.left)
        mender = Mender(self._disk, repo.cache.root, repo.cache.area, name)
        await anyio.to_thread.run_sync(self._small_steps, repo, mender)
        await self._restore(verification, repo, mender)
        await self._ask_anew(verification, repo, mender)
        await anyio.to_thread.run_sync(self._mend_payloads, repo, mender)
        await anyio.to_thread.run_sync(self._mend_twins, repo)
        # What is said to be mended was looked at again.
        again = await self._look(verification, cache_dir, repo.folder)
        left = [(finding, self._why(repo, finding)) for finding in again.place.verdict.of_rank(Rank.DAMAGE)]
        still = {(finding.kind, finding.key) for finding, _ in left}
        done = [step for step in repo.done if (step.kind, step.key) not in still]
        if left:
            await anyio.to_thread.run_sync(self._ask_the_disk, repo)
        return _fixed(repo, name, done, left)

    async def _open_folders(self, verification: Verification, cache_dir: Path, repo: _Repo) -> _Repo:
        """Give folders that nobody may enter their permissions first: what lies in them seemed to be missing."""
        for _ in range(_MOST_FOLDERS_DEEP):
            closed = [step for step in repo.repair.of(Act.PERMIT) if step.kind is Kind.UNREADABLE]
            closed = [step for step in closed if step.key not in repo.failed]
            if not closed:
                break
            mender = Mender(self._disk, repo.cache.root, repo.cache.area, repo.folder)
            await anyio.to_thread.run_sync(self._take, repo, mender, closed)
            done, failed = repo.done, repo.failed
            repo = await self._look(verification, cache_dir, repo.folder)
            repo.done, repo.failed = done, failed
        return repo

    def _ask_the_disk(self, repo: _Repo) -> None:
        """Raise `DiskError` where what is left is no damage, but a disk that died: to readers the two look alike."""
        if not repo.cache.area.is_dir():
            return  # nothing was ever written here
        try:
            self._disk.unlink(Area(self._disk, repo.cache.area).stage(b"", sync=True))
        except DiskError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise

    def _why(self, repo: _Repo, finding: Finding) -> str:
        for known, why in repo.repair.left:
            if known.key == finding.key:
                return why
        return repo.failed.get(finding.path) or repo.failed.get(finding.key) or "it could not be mended"

    def _small_steps(self, repo: _Repo, mender: Mender) -> None:
        """Do all that needs neither the network nor a listing."""
        self._take(repo, mender, repo.repair.steps)

    def _take(self, repo: _Repo, mender: Mender, steps: Iterable[Step]) -> None:
        for step in steps:
            seen = seen_state(repo.facts, step.key)
            with _Noting(repo.failed, step):
                if seen is not None and step.act is not Act.RESTORE and not mender.is_still(step.key, seen):
                    repo.failed[step.key] = "it changed while the cache was looked at"
                    continue
                match step.act:
                    case Act.REMOVE:
                        self._freed += self._remove(repo, mender, step)
                    case Act.PERMIT:
                        mender.permit(step.key)
                    case Act.SET_ASIDE if step.kind is Kind.OBSTACLE:
                        mender.clear_the_way(step.key)
                    case Act.SET_ASIDE:
                        with repo.cache.lock_name(step.key.rpartition("/")[2], timeout_s=0):
                            mender.set_aside(step.key, step.digest, step.kind.value)
                    case Act.RESTORE:
                        mender.clear(step.key)
                        mender.clear(f"snapshots/{step.commit}/{step.path}")
                        continue
                    case _:
                        continue
                repo.done.append(step)

    def _remove(self, repo: _Repo, mender: Mender, step: Step) -> int:
        if step.kind is Kind.DEAD_PARTIAL and look(mender.place(step.key), myself()).life is not Life.DEAD:
            raise LockedError("another process went on with it")
        if step.kind not in (Kind.INCOMPLETE, Kind.STALE_LOCK):
            return mender.remove(step.key)
        # The hub's client holds this lock as long as it writes.
        etag = step.key.rpartition("/")[2].partition(".")[0]
        with repo.cache.lock_name(etag, timeout_s=0):
            return mender.remove(step.key)

    async def _restore(self, verification: Verification, repo: _Repo, mender: Mender) -> None:
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for step in repo.repair.of(Act.RESTORE):
            assert step.commit is not None
            wanted[step.commit].add(step.path)
        rebuilt = {step.commit: step for step in repo.repair.of(Act.REBUILD) if step.commit is not None}
        for commit in dict.fromkeys([*wanted, *rebuilt]):
            manifest = await self._manifest(verification, repo, commit)
            if manifest is None:
                for path in wanted[commit]:
                    repo.failed[path] = "what this commit holds is not known"
                files: tuple[RemoteFile, ...] = ()
            else:
                files = tuple(file for file in manifest.files if file.path in wanted[commit])
            if commit in rebuilt:
                there = good_blobs(repo.facts, repo.job.answers)
                known = () if manifest is None else manifest.files
                files = tuple(file for file in known if file.path in wanted[commit] or file.digest.hex in there)
            if manifest is not None and files:
                await self._publish(verification, repo, manifest, files)
            elif commit in rebuilt:
                with _Noting(repo.failed, rebuilt[commit]):
                    await anyio.to_thread.run_sync(self._forget_commit, repo, mender, commit)
            if commit in rebuilt:
                repo.done.append(rebuilt[commit])
        for step in repo.repair.of(Act.REBUILD):
            if step.commit is None:  # no folder of snapshots at all
                await anyio.to_thread.run_sync(self._disk.make_dirs, repo.cache.root / "snapshots")
                repo.done.append(step)

    async def _manifest(self, verification: Verification, repo: _Repo, commit: str) -> Manifest | None:
        identity = repo.job.identity.repo
        if identity is None:
            return None
        ref = RepoRef(kind=identity[0], repo_id=identity[1], revision=commit)
        if verification.hub is not None:
            with suppress(AbsentError):
                return await verification.hub.manifest(ref, cached_tree=repo.cache.read_tree)
        files = await anyio.to_thread.run_sync(repo.cache.read_tree, commit)
        return None if files is None else Manifest(ref=ref, commit=commit, files=files)  # type: ignore[arg-type]

    async def _publish(
        self, verification: Verification, repo: _Repo, manifest: Manifest, files: Sequence[RemoteFile]
    ) -> None:
        """Publish these paths again: linked, from good blocks, or fetched."""
        from fetchverify.engine.transfer import Transfer
        from fetchverify.net.wire import Endpoint

        await anyio.to_thread.run_sync(repo.cache.begin, manifest)
        await anyio.to_thread.run_sync(self._wait_for_others, repo, files)
        await anyio.to_thread.run_sync(self._seed, repo)
        seen = await anyio.to_thread.run_sync(repo.cache.observe, manifest, files)
        plan = plan_fetch(files, seen, copies_cost_space=False, bad=_still_bad(repo))
        endpoint = verification.endpoint or Endpoint.from_environment(self._options.endpoint, self._options.token)
        self._tell_plan(plan, files)
        transfer = Transfer(
            manifest=manifest,
            layout=repo.cache,
            disk=self._disk,
            endpoint=endpoint,
            options=self._transfer_options(offline=verification.hub is None),
            emit=self._emit,
        )
        outcomes = await transfer.execute(plan)
        await anyio.to_thread.run_sync(repo.cache.finish, manifest)
        self._note(repo, transfer, outcomes)

    def _wait_for_others(self, repo: _Repo, files: Sequence[RemoteFile]) -> None:
        """Let others finish their downloads of these files: what they bring need not come twice."""

        def told(holder: str, waited_s: float) -> None:
            anyio.from_thread.check_cancelled()
            event = events.Waiting(what=holder, wait_s=None, waited_s=round(waited_s, 1))
            anyio.from_thread.run_sync(self._emit, event)

        held = held_locks(repo.cache.cache_dir, repo.folder)
        for file in files:
            if f"{file.digest.hex}.lock" in held:
                with repo.cache.lock(file, told, self._options.lock_timeout_s):
                    pass

    def _note(self, repo: _Repo, transfer: Transfer, outcomes: Iterable[Outcome]) -> None:
        self._fetched += transfer.run.bytes_fetched
        self._requests += transfer.run.requests
        commit = transfer.run.manifest.commit
        ended = {outcome.path: outcome for outcome in outcomes}
        for outcome in ended.values():
            if outcome.kind.exit_code is not ExitCode.CLEAN:
                repo.failed[outcome.path] = outcome.detail or outcome.kind.value
        repo.outcomes += ended.values()
        for step in repo.repair.of(Act.RESTORE):
            if step.commit == commit and step.path in ended and step.path not in repo.failed:
                repo.done.append(step)

    def _transfer_options(self, *, offline: bool) -> TransferOptions:
        options = self._options
        return TransferOptions(
            connections=options.connections,
            limit_rate=options.limit_rate,
            patience=patience(options.retries),
            lock_timeout_s=options.lock_timeout_s,
            offline=offline,
        )

    def _tell_plan(self, plan: Plan, files: Sequence[RemoteFile]) -> None:
        self._emit(
            events.Planned(
                files=len(files),
                files_kept=len(plan.keeps),
                files_linked=len(plan.links),
                files_to_fetch=sum(len(fetch.files) for fetch in plan.fetches),
                size=sum(file.size for file in files),
                bytes_to_fetch=plan.bytes_to_fetch,
                bytes_landed=sum(fetch.landed for fetch in plan.fetches),
            )
        )

    def _seed(self, repo: _Repo) -> None:
        """Take the good blocks of damaged blobs over: only the others have to be fetched."""
        for step in repo.repair.of(Act.RESTORE):
            if not step.blocks or step.digest is None or not step.key.startswith("blobs/"):
                continue
            blob = Path(os.path.realpath(repo.cache.root / step.key))
            with suppress(OSError, LockedError):
                block_map = load_block_map(repo.cache.area, step.digest, blob.stat().st_size)
                if block_map is not None:
                    seed_partial(self._disk, repo.cache.area, blob, step.digest, block_map, step.blocks)

    def _forget_commit(self, repo: _Repo, mender: Mender, commit: str) -> None:
        """Remove a snapshot in which there is nothing, and the refs that lead to it.

        Raises:
            LockedError: the hub's client makes both before there is a file: this may be a download under way.
        """
        if busy(repo.cache.cache_dir, repo.folder):
            raise LockedError("another process downloads into this repo at this moment")
        for ref, named in repo.facts.refs.items():
            if named == commit == repo.cache.read_ref(ref):
                mender.remove(f"refs/{ref}")
        if os.path.lexists(repo.cache.root / "snapshots" / commit):
            mender.remove_empty(f"snapshots/{commit}")

    async def _ask_anew(self, verification: Verification, repo: _Repo, mender: Mender) -> None:
        """Give refs without a commit what they name today, where that is here; else they go."""
        for step in repo.repair.of(Act.ASK_ANEW):
            commit = None
            identity = repo.job.identity.repo
            if verification.hub is not None and identity is not None:
                revision = step.key.removeprefix("refs/")
                with suppress(FetchverifyError):
                    commit = await verification.hub.resolve_commit(
                        RepoRef(kind=identity[0], repo_id=identity[1], revision=revision)
                    )
            place = repo.cache.root / step.key
            with _Noting(repo.failed, step):
                if repo.cache.read_ref(step.key.removeprefix("refs/")) is not None:
                    continue  # somebody was faster
                if commit is not None and commit in repo.facts.snapshots:
                    await anyio.to_thread.run_sync(self._disk.make_dirs, place.parent)
                    await anyio.to_thread.run_sync(self._disk.write_file, place, commit.encode())
                else:
                    await anyio.to_thread.run_sync(mender.remove, step.key)
                repo.done.append(step)

    def _mend_payloads(self, repo: _Repo, mender: Mender) -> None:
        """Put good bytes in the place of bad payloads of the shared store, for all repos that link to them."""
        cache = repo.cache
        for step in repo.repair.of(Act.RESTORE):
            link = repo.facts.blob_links.get(step.key.removeprefix("blobs/"))
            if link is None or link.where is None or link.where not in repo.repair.bad or step.digest is None:
                continue
            if link.where in self._mended:
                continue
            blob, payload = cache.blob(step.digest), Path(link.where)
            good = cache.find_blob(step.digest)
            if good is None or not good.proved or good.where != str(blob):
                continue
            with _Noting(repo.failed, step):
                if sharedblobs.replace(cache.cache_dir, payload.name, blob, good.size):
                    cache.proofs.add(step.digest, payload.lstat())
                    cache.proofs.flush()
                    self._mended.add(link.where)
                else:
                    # Nobody must be linked to it any more.
                    mender.set_aside(os.path.relpath(payload, cache.root), step.digest, "a shared payload is corrupt")

    def _mend_twins(self, repo: _Repo) -> None:
        """Give other repos' hard links to bad bytes the good ones: they are fetched once."""
        cache = repo.cache
        for step in repo.repair.of(Act.RESTORE):
            seen = seen_state(repo.facts, step.key)
            if seen is None or seen.st_nlink < 2 or step.digest is None or not step.key.startswith("blobs/"):
                continue
            good = cache.find_blob(step.digest)
            if good is None or not good.proved:
                continue
            with _Noting(repo.failed, step):
                folders = repo_folders(cache.cache_dir)
                twins = relink_twins(self._disk, cache, folders, step.digest, seen, Path(good.where))
                self._mended.update(map(str, twins))

    # -- the shared store ---------------------------------------------------------------------------------------

    def _fix_store(self, cache_dir: Path, folders: list[str]) -> list[FixedPlace]:
        if not (cache_dir / "blobs").is_dir():
            return []
        root, findings = self._look_at_store(cache_dir, folders)
        repair = plan_repair(CacheFacts(root=root, now=time.time()), findings, {}, {})
        if not repair.steps and not repair.left:
            return []
        done, left = repair.steps, repair.left
        if not self._options.dry_run:
            failed = self._store_steps(cache_dir, repair)
            # What is said to be mended was looked at again.
            _, again = self._look_at_store(cache_dir, folders)
            why = {known.key: text for known, text in repair.left} | failed
            still = {(finding.kind, finding.key) for finding in again}
            done = [step for step in done if (step.kind, step.key) not in still]
            left = [(one, why.get(one.key, "it could not be mended")) for one in again if one.kind.rank is Rank.DAMAGE]
        return [
            FixedPlace(
                name=_STORE,
                repo_type=None,
                target=root,
                steps=tuple(done),
                left=tuple(left),
            )
        ]

    def _look_at_store(self, cache_dir: Path, folders: list[str]) -> tuple[str, list[Finding]]:
        store = survey_store(cache_dir)
        if not store.payloads and not store.litter:
            return store.root, []
        facts = [survey_cache(cache_dir, folder) for folder in folders]
        return store.root, judge_store(store, facts).findings

    def _store_steps(self, cache_dir: Path, repair: Repair) -> dict[str, str]:
        """Take the steps; return those that failed, by key, and why."""
        mender = Mender(self._disk, cache_dir / "blobs", cache_dir / "blobs", _STORE)
        failed: dict[str, str] = {}
        users: defaultdict[str, list[str]] = defaultdict(list)
        for step in repair.of(Act.REFER):
            users[step.key] += step.names
        for step in repair.steps:
            key = os.path.relpath(cache_dir / step.key, cache_dir / "blobs")
            with _Noting(failed, step):
                match step.act:
                    case Act.PERMIT:
                        self._disk.set_mode(mender.place(key), sharedblobs.payload_mode(cache_dir))
                    case Act.CLOSE:
                        mender.close(key)
                    case Act.MARK:
                        mender.mark_store(cache_dir)
                    case Act.REFER if step.key in users:
                        sharedblobs.refer(self._disk, cache_dir, step.key.rpartition("/")[2], users.pop(step.key))
        return failed

    # -- purge --------------------------------------------------------------------------------------------------

    async def _purge(self, cache_dir: Path, folders: list[str], places: list[FixedPlace]) -> list[FixedPlace]:
        options = self._options
        found, freed = await anyio.to_thread.run_sync(
            lambda: purge(
                self._disk,
                cache_dir,
                folders,
                options.purge,
                dry_run=options.dry_run,
                quarantine=options.empty_quarantine,
            )
        )
        self._freed += freed
        if any(one.folder == "blobs" for one in found) and not any(place.name == _STORE for place in places):
            target = str(cache_dir / "blobs")
            places = [*places, FixedPlace(name=_STORE, repo_type=None, target=target, steps=(), left=())]
        return [
            replace(place, purged=tuple(one for one in found if one.folder == Path(place.target).name))
            for place in places
        ]


class _Noting:
    """Notes that a step failed and goes on with the others; a full or failing disk ends the run."""

    def __init__(self, failed: dict[str, str], step: Step) -> None:
        self._failed, self._step = failed, step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        cause = error.__cause__ if isinstance(error, DiskError) else error
        if isinstance(cause, FileNotFoundError):
            self._failed[self._step.key] = "it vanished while the cache was looked at"
            return True
        if isinstance(error, LockedError | DiskError | PermissionError) and not (
            isinstance(cause, OSError) and is_failing(cause)
        ):
            self._failed[self._step.key] = error.message if isinstance(error, FetchverifyError) else str(error)
            return True
        return False


def _still_bad(repo: _Repo) -> set[str]:
    """Return whose bytes are known to be bad, without those that somebody replaced since."""
    payloads = {link.where: link.state for link in repo.facts.blob_links.values()}
    bad = set()
    for where in repo.repair.bad:
        seen = payloads.get(where) or seen_state(repo.facts, where.removeprefix(f"{repo.facts.root}/"))
        with suppress(OSError):
            now = os.lstat(where)
            if seen is None or (now.st_ino, now.st_size, now.st_mtime_ns) == (
                seen.st_ino,
                seen.st_size,
                seen.st_mtime_ns,
            ):
                bad.add(where)
    return bad


def _network(repos: Iterable[_Repo]) -> ExitCode:
    troubles = (repo.job.truth.trouble for repo in repos)
    return next((trouble.exit_code for trouble in troubles if trouble is not None), ExitCode.CLEAN)


def _fixed(repo: _Repo, name: str, steps: Iterable[Step], left: Iterable[tuple[Finding, str]]) -> FixedPlace:
    return FixedPlace(
        name=name,
        repo_type=repo.place.repo_type,
        target=str(repo.cache.root),
        steps=tuple(steps),
        left=tuple(left),
        outcomes=tuple(repo.outcomes),
    )
