"""`fix-cache`: verify, plan, repair, look again; over some repos of the cache, or all."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from fetchverify import events
from fetchverify.commands.fixing import FixOptions, Repo
from fetchverify.commands.fixrestore import Restorer
from fetchverify.commands.fixsteps import SmallSteps
from fetchverify.commands.fixstore import NAME, SharedStore, fixed_store
from fetchverify.commands.garbage import without_collector
from fetchverify.commands.purging import purge
from fetchverify.commands.verifycache import CacheVerification
from fetchverify.commands.verifyoptions import VerifyOptions
from fetchverify.core.facts import CacheFacts
from fetchverify.core.findings import Finding, Kind, Rank
from fetchverify.core.fixed import FixedPlace, FixReport
from fetchverify.core.reference import parse_reference
from fetchverify.core.repair import Act, Step, plan_repair
from fetchverify.errors import AbsentError, DiskError, ExitCode
from fetchverify.store.area import Area
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.mending import Mender
from fetchverify.store.survey import repo_folders

_MOST_FOLDERS_DEEP = 16


async def run(options: FixOptions, emit: events.Emit) -> FixReport:
    """Repair what can be proved; what is whole is never touched, unless a purge was asked for.

    Raises:
        FetchverifyError: a named repo is not in the cache, or the disk is full or failing.
    """
    return await _Fix(options, emit).run()


class _Fix:
    """One run's state."""

    def __init__(self, options: FixOptions, emit: events.Emit) -> None:
        self._options = options
        self._emit = emit
        self._disk = Disk()
        self._steps = SmallSteps(self._disk)
        self._restorer = Restorer(options, self._disk, emit)
        self._store = SharedStore(self._disk)

    async def run(self) -> FixReport:
        from huggingface_hub import constants

        options, began = self._options, time.monotonic()
        cache_dir = (options.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
        verification = self._verification()
        with without_collector():
            async with verification.asking():
                await verification.connect()
                folders = self._folders(cache_dir, verification)
                repos = [await self._look(verification, cache_dir, folder) for folder in folders]
                network = _network(repos)
                places: list[FixedPlace] = []
                for seen in repos:
                    stale = seen.repair.bad & self._store.mended
                    repo = await self._look(verification, cache_dir, seen.folder) if stale else seen
                    places.append(await self._fix(verification, cache_dir, repo))
                if not options.repos:
                    places += await anyio.to_thread.run_sync(
                        lambda: self._store.fix(cache_dir, folders, dry_run=options.dry_run)
                    )
                asked = 0 if verification.hub is None else verification.hub.requests
        freed = self._steps.freed
        if options.purge.asked or options.empty_quarantine:
            places, purged = await self._purge(cache_dir, folders, places)
            freed += purged
        return FixReport(
            places=tuple(places),
            dry_run=options.dry_run,
            bytes_fetched=self._restorer.fetched,
            bytes_freed=freed,
            seconds=round(time.monotonic() - began, 3),
            requests=self._restorer.requests + asked,
            network=network,
        )

    def _verification(self) -> CacheVerification:
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
        return CacheVerification(given, self._emit)

    def _folders(self, cache_dir: Path, verification: CacheVerification) -> list[str]:
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

    async def _look(self, verification: CacheVerification, cache_dir: Path, folder: str) -> Repo:
        job = await verification.survey_repo(cache_dir, folder)
        await verification.measure([job])
        place = await anyio.to_thread.run_sync(verification.judge_repo, job)
        assert isinstance(job.facts, CacheFacts)
        repair = plan_repair(
            job.facts, place.verdict.findings, job.promised, job.answers, offline=verification.hub is None
        )
        return Repo(folder=folder, cache=HubCache(self._disk, cache_dir, folder), job=job, place=place, repair=repair)

    async def _fix(self, verification: CacheVerification, cache_dir: Path, repo: Repo) -> FixedPlace:
        if not self._options.dry_run:
            repo = await self._open_folders(verification, cache_dir, repo)
        repair = repo.repair
        name = repo.place.repo_id or repo.folder
        if not self._options.dry_run and not repair.steps and repair.left:
            await anyio.to_thread.run_sync(self._ask_the_disk, repo)
        if self._options.dry_run or not repair.steps:
            return _fixed(repo, name, [*repo.done, *repair.steps], repair.left)
        mender = Mender(self._disk, repo.cache.root, repo.cache.area, name)
        await anyio.to_thread.run_sync(self._steps.take, repo, mender, repair.steps)
        await self._restorer.restore(verification, repo, mender)
        await self._steps.ask_anew(verification, repo, mender)
        await anyio.to_thread.run_sync(self._store.mend_payloads, repo, mender)
        await anyio.to_thread.run_sync(self._store.mend_twins, repo)
        # What is said to be mended was looked at again.
        again = await self._look(verification, cache_dir, repo.folder)
        left = [(finding, self._why(repo, finding)) for finding in again.place.verdict.of_rank(Rank.DAMAGE)]
        still = {(finding.kind, finding.key) for finding, _ in left}
        done = [step for step in repo.done if (step.kind, step.key) not in still]
        if left:
            await anyio.to_thread.run_sync(self._ask_the_disk, repo)
        return _fixed(repo, name, done, left)

    async def _open_folders(self, verification: CacheVerification, cache_dir: Path, repo: Repo) -> Repo:
        """Give folders that nobody may enter their permissions first: what lies in them seemed to be missing."""
        for _ in range(_MOST_FOLDERS_DEEP):
            closed = [step for step in repo.repair.of(Act.PERMIT) if step.kind is Kind.UNREADABLE]
            closed = [step for step in closed if step.key not in repo.failed]
            if not closed:
                break
            mender = Mender(self._disk, repo.cache.root, repo.cache.area, repo.folder)
            await anyio.to_thread.run_sync(self._steps.take, repo, mender, closed)
            done, failed = repo.done, repo.failed
            repo = await self._look(verification, cache_dir, repo.folder)
            repo.done, repo.failed = done, failed
        return repo

    def _ask_the_disk(self, repo: Repo) -> None:
        """Raise `DiskError` where what is left is no damage, but a disk that died: to readers the two look alike."""
        if not repo.cache.area.is_dir():
            return  # nothing was ever written here
        try:
            self._disk.unlink(Area(self._disk, repo.cache.area).stage(b"", sync=True))
        except DiskError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise

    def _why(self, repo: Repo, finding: Finding) -> str:
        for known, why in repo.repair.left:
            if known.key == finding.key:
                return why
        return repo.failed.get(finding.path) or repo.failed.get(finding.key) or "it could not be mended"

    async def _purge(
        self, cache_dir: Path, folders: list[str], places: list[FixedPlace]
    ) -> tuple[list[FixedPlace], int]:
        """Purge; return the places with what was taken from them, and the bytes that came free."""
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
        if any(one.folder == "blobs" for one in found) and not any(place.name == NAME for place in places):
            places = [*places, fixed_store(str(cache_dir / "blobs"))]
        purged = [
            replace(place, purged=tuple(one for one in found if one.folder == Path(place.target).name))
            for place in places
        ]
        return purged, freed


def _network(repos: Iterable[Repo]) -> ExitCode:
    troubles = (repo.job.truth.trouble for repo in repos)
    return next((trouble.exit_code for trouble in troubles if trouble is not None), ExitCode.CLEAN)


def _fixed(repo: Repo, name: str, steps: Iterable[Step], left: Iterable[tuple[Finding, str]]) -> FixedPlace:
    return FixedPlace(
        name=name,
        repo_type=repo.place.repo_type,
        target=str(repo.cache.root),
        steps=tuple(steps),
        left=tuple(left),
        outcomes=tuple(repo.outcomes),
    )
