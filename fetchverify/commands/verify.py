"""`verify`: truth, survey, hash, judge, report; over a repo in the cache, all of them, or a folder."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from fetchverify import events
from fetchverify.commands.garbage import without_collector
from fetchverify.commands.sums import write_sums
from fetchverify.commands.truth import (
    SUMS_NAME,
    Identity,
    Truth,
    identify,
    read_sums,
    repo_of,
    truth_about,
    truth_about_folder,
)
from fetchverify.core.facts import Answer, CacheFacts, Evidence, FolderFacts, How, Promised, Promises, Question
from fetchverify.core.findings import (
    Verdict,
    cache_questions,
    everything,
    folder_questions,
    judge_cache,
    judge_contents,
    judge_folder,
    judge_store,
)
from fetchverify.core.manifest import Digest, RepoKind, RepoRef
from fetchverify.core.reference import is_path, parse_reference
from fetchverify.core.retry import PATIENT, patience
from fetchverify.core.tree import is_commit
from fetchverify.core.verified import Place, VerifyReport
from fetchverify.engine.audit import Auditor
from fetchverify.engine.ledger import Learner
from fetchverify.errors import AbsentError, DiskError, ExitCode, FetchverifyError, UsageError
from fetchverify.store.area import AREA_NAME
from fetchverify.store.blockmap import load_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.proofs import Proofs, source_of
from fetchverify.store.seal import fingerprint, read_seal, write_seal
from fetchverify.store.survey import repo_folders, survey_cache, survey_store
from fetchverify.store.surveyfolder import survey_folder

if TYPE_CHECKING:
    from fetchverify.core.diagnosis.findings import Finding
    from fetchverify.net.hub import Hub
    from fetchverify.net.wire import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What `fetchverify verify` was asked for; None means "as the hub client does"."""

    target: str | None = None
    all: bool = False
    repo: str | None = None
    repo_type: RepoKind | None = None
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    cache_dir: Path | None = None
    endpoint: str | None = None
    token: str | None = None
    offline: bool = False
    strict: bool = False
    allow_missing: bool = False
    retries: int = PATIENT.attempts
    quick: bool = False
    deep: bool = False
    blocks_first: bool = False
    """Compare the blocks of what changed before it is hashed: for who expects damage."""
    sums: Path | None = None
    write_sums: Path | None = None
    """The empty path for `SHA256SUMS` in the folder, or here for a repo in the cache."""
    details: bool = False
    """Name the good files, too."""
    doctor: bool = True
    """Look at the headers of a model's weights, and say what is broken in the repo itself."""


@dataclass(slots=True, kw_only=True)
class Job:
    """One place between its survey and its verdict."""

    facts: CacheFacts | FolderFacts
    identity: Identity
    proofs: Proofs
    promised: Mapping[str, Promises]
    truth: Truth
    area: Path
    wanted: Callable[[str], bool]
    complete: bool = True
    answers: dict[str, Answer] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    sealable: bool = False
    """All of the repo was looked at, and the next run may rest on what is found."""
    known: Verdict | None = None
    """What is known of snapshots and blobs without asking: they are as they were when they were sealed."""


async def run(options: VerifyOptions, emit: events.Emit) -> VerifyReport:
    """Hold what lies on disk against what was promised.

    Raises:
        FetchverifyError: there is nothing to verify, or the Hub could not be asked.
    """
    began = time.monotonic()
    with without_collector():
        report = await Verification(options, emit).run(began)
    if not options.doctor:
        return report
    return replace(report, broken=await anyio.to_thread.run_sync(_broken_there, report, abandon_on_cancel=True))


def _broken_there(report: VerifyReport) -> tuple[Finding, ...]:
    """Return what is proved and yet broken: the repo itself holds a pointer, or a cut shard."""
    from fetchverify.engine.examine import broken_weights
    from fetchverify.store.reading import file_names

    found: list[Finding] = []
    for place in report.places:
        if place.repo_type != "model":
            continue
        root = Path(place.target)
        known = {finding.path for finding in place.verdict.findings}
        for folder in [root / "snapshots" / commit for commit in place.commits] if place.in_cache else [root]:
            if os.path.isdir(folder):  # noqa: PTH112 - `Path.is_dir` raises where a folder on the way is closed
                found += broken_weights(folder, (path for path in file_names(folder) if path not in known))
    return tuple(found)


class Verification:
    """One run's state; `survey_repo`, `measure` and `judge_repo` are its steps for one repo in a cache."""

    def __init__(self, options: VerifyOptions, emit: events.Emit) -> None:
        self._options = options
        self._emit = emit
        self._disk = Disk()
        self._auditor = Auditor()
        self.hub: Hub | None = None
        self.endpoint: Endpoint | None = None
        self._files = self._bytes = 0

    async def run(self, began: float) -> VerifyReport:
        """Verify whatever the options name."""
        options = self._options
        _check(options)
        place = None if options.target is None else _inside_a_cache(options.target)
        if options.target is not None and is_path(options.target) and place is None:
            directory = _directory(options.target)
            return await self._online(began, lambda: self._folder(directory))
        if place is not None:
            options = self._options = replace(options, **place)
        return await self._online(began, self._cache)

    async def _online(self, began: float, work: Callable[[], Any]) -> VerifyReport:
        async with self.asking():
            return self._report(began, *await work())

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Have a Hub to ask in the block, where one may be asked."""
        if self._options.offline or self._options.sums is not None:
            yield
            return
        # Imported only here: offline, httpx and its kin are half of a short run.
        from fetchverify.net.hub import Hub
        from fetchverify.net.wire import Endpoint

        self.endpoint = Endpoint.from_environment(self._options.endpoint, self._options.token)
        async with Hub(self.endpoint, emit=self._emit, patience=patience(self._options.retries)) as hub:
            self.hub = hub
            yield

    def _report(self, began: float, places: list[Place], network: ExitCode, sums: str | None) -> VerifyReport:
        return VerifyReport(
            places=tuple(places),
            seconds=round(time.monotonic() - began, 3),
            files_hashed=self._files,
            bytes_hashed=self._bytes,
            requests=0 if self.hub is None else self.hub.requests,
            strict=self._options.strict,
            allow_missing=self._options.allow_missing,
            sums=sums,
            network=network,
        )

    @property
    def _hosts(self) -> tuple[str, ...]:
        return () if self.endpoint is None else (self.endpoint.place,)

    # -- the cache ----------------------------------------------------------------------------------------------

    async def _cache(self) -> tuple[list[Place], ExitCode, str | None]:
        from huggingface_hub import constants

        options = self._options
        cache_dir = (options.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
        if options.target is None:
            folders, ref = repo_folders(cache_dir), None
        else:
            reference = parse_reference(options.target, kind=options.repo_type, hosts=self._hosts)
            ref = reference.ref
            folders = [repo_folder_name(ref.kind, ref.repo_id)]
            if not (cache_dir / folders[0]).is_dir():
                raise _not_in_cache(options.target, ref, cache_dir)
        revision = options.revision
        if ref is not None and revision is None and ref.revision != "main":
            revision = ref.revision
        jobs = [await self.survey_repo(cache_dir, folder, revision, sealed=self._may_seal) for folder in folders]
        network = next((job.truth.trouble.exit_code for job in jobs if job.truth.trouble is not None), ExitCode.CLEAN)
        await self.measure(jobs)
        places = [await anyio.to_thread.run_sync(self.judge_repo, job) for job in jobs]
        if options.target is None:
            store = await anyio.to_thread.run_sync(survey_store, cache_dir)
            verdict = judge_store(store, [job.facts for job in jobs if isinstance(job.facts, CacheFacts)])
            if store.payloads or verdict.findings:
                places.append(
                    Place(
                        target=store.root,
                        in_cache=True,
                        repo_id=None,
                        repo_type=None,
                        commits=(),
                        verdict=verdict,
                    )
                )
        sums = None
        if options.write_sums is not None:
            sums = await anyio.to_thread.run_sync(self._write_cache_sums, jobs[0], places[0])
        return places, network, sums

    @property
    def _may_seal(self) -> bool:
        """Return whether a run of this kind may rest on an earlier one of its kind: all of a repo, and no names."""
        options = self._options
        parts = options.include or options.exclude or options.revision is not None
        return not (parts or options.deep or options.quick or options.details or options.write_sums is not None)

    async def survey_repo(
        self, cache_dir: Path, folder: str, revision: str | None = None, *, sealed: bool = False
    ) -> Job:
        """Look at one repo's folder, and ask what it should hold; what the ledger knows is answered already.

        Args:
            cache_dir: the cache.
            folder: the repo's, in it.
            revision: look at this one alone.
            sealed: the job may be without questions and promises, where nothing changed since all was good.
        """
        cache = HubCache(self._disk, cache_dir, folder)
        repo = repo_of(folder)
        facts = await anyio.to_thread.run_sync(survey_cache, cache_dir, folder)
        wanted = self._wanted()
        sealable = sealed and revision is None
        if sealable:
            known = await anyio.to_thread.run_sync(self._unchanged, cache.area, facts)
            if known is not None:
                return Job(
                    facts=facts,
                    identity=Identity(repo=repo),
                    proofs=Proofs(self._disk, cache.area),
                    promised={},
                    truth=Truth(),
                    area=cache.area,
                    wanted=wanted,
                    known=known,
                )
        if revision is not None and repo is not None:
            commit = await self._commit(cache, RepoRef(kind=repo[0], repo_id=repo[1], revision=revision), facts)
            facts = replace(facts, snapshots={commit: facts.snapshots[commit]}, refs={}, no_exist={}, unreadable={})
            # Not `everything`: blobs of other snapshots are not looked at, and would seem to have no link.
            wanted = self._wanted(part=True)
        proofs = await anyio.to_thread.run_sync(lambda: cache.proofs)
        truth = await truth_about(
            cache.root,
            facts.trees,
            facts.snapshots,
            repo=repo,
            hub=self.hub,
            proofs=proofs,
            again=self._options.deep,
            lenient=self._options.target is None,
        )
        self._tell_doubts(folder if repo is None else repo[1], truth)
        job = Job(
            facts=facts,
            identity=Identity(repo=repo),
            proofs=proofs,
            promised=truth.promised,
            truth=truth,
            area=cache.area,
            wanted=wanted,
            sealable=sealable,
        )
        asked = await anyio.to_thread.run_sync(cache_questions, facts, truth.promised, wanted)
        await anyio.to_thread.run_sync(self._sort_out, job, asked)
        return job

    def _unchanged(self, area: Path, facts: CacheFacts) -> Verdict | None:
        """Return what was found when the folder was sealed; None where it is not as it was then."""
        asked = self.hub is not None
        return read_seal(area, fingerprint(facts, source_of(area), asked=asked), asked=asked)

    def _seal(self, job: Job, verdict: Verdict) -> None:
        """Spare the next run what this one found good; only where the ledger on the disk says every word of it."""
        facts, truth, asked = job.facts, job.truth, self.hub is not None
        assert isinstance(facts, CacheFacts)
        if verdict.findings or facts.unreadable or truth.broken or truth.gone or truth.trouble is not None:
            return
        # Without a listing here it is the Hub's to say, each time, what a commit holds.
        if asked and not truth.promised.keys() <= facts.trees.keys():
            return
        proofs = job.proofs
        if proofs.source is None:  # it learned in this run
            proofs = Proofs.load(self._disk, job.area, compact=False)
        questions = cache_questions(facts, job.promised, job.wanted)
        if not all(one.digest is not None and proofs.knows(one.digest, one.state) for one in questions):
            return
        found = fingerprint(facts, proofs.source, asked=asked)
        if found is not None:
            write_seal(self._disk, job.area, found, verdict, asked=asked)

    def _tell_doubts(self, name: str, truth: Truth) -> None:
        """Say what was held against what lies here alone, and why."""
        doubts = [
            f"commit `{commit[:8]}`, which the Hub does not give: {error.message}"
            for commit, error in truth.gone.items()
        ]
        if truth.trouble is not None:
            doubts.append(f"the Hub could not be asked: {truth.trouble.message}")
        for doubt in doubts:
            self._emit(events.Note(level="warning", message=f"`{name}`: held against what lies here: {doubt}"))

    async def _commit(self, cache: HubCache, ref: RepoRef, facts: CacheFacts) -> str:
        """Return the commit that a revision names: today, where the Hub may be asked, else as it was recorded."""
        recorded = cache.read_ref(ref.revision)
        commit: str | None = recorded if self.hub is None else await self.hub.resolve_commit(ref)
        if commit is None or commit not in facts.snapshots:
            which = "" if commit is None else f" (commit `{commit[:8]}`)"
            kind = "" if ref.kind == "model" else f" -t {ref.kind}"
            raise AbsentError(
                f"`{ref.repo_id}` at `{ref.revision}`{which} is not in the cache",
                hint=f"`fetchverify get{kind} {ref.repo_id}@{ref.revision}` puts it there",
            )
        return commit

    def judge_repo(self, job: Job) -> Place:
        """Return what is wrong in one repo's folder."""
        facts = job.facts
        assert isinstance(facts, CacheFacts)
        files: list[tuple[str | None, str, Evidence, How]] = []
        tell = (lambda *good: files.append(good)) if self._options.details else None
        known = job.known
        if known is None:
            known = judge_contents(facts, job.promised, job.answers, wanted=job.wanted, tell=tell)
            if job.sealable:
                self._seal(job, known)
        verdict = judge_cache(facts, job.promised, job.answers, broken=job.truth.broken, wanted=job.wanted, known=known)
        repo = job.identity.repo
        return Place(
            target=facts.root,
            in_cache=True,
            repo_id=None if repo is None else repo[1],
            repo_type=None if repo is None else repo[0],
            commits=tuple(facts.snapshots),
            verdict=verdict,
            files=tuple(files),
            trouble=None if job.truth.trouble is None else job.truth.trouble.message,
        )

    def _write_cache_sums(self, job: Job, place: Place) -> str | None:
        facts = job.facts
        assert isinstance(facts, CacheFacts)
        commits = [commit for commit in facts.snapshots if commit in job.promised]
        if len(commits) > 1:
            commits = [commit for commit in commits if commit == facts.refs.get("main")]
        if len(commits) != 1:
            raise UsageError("`--write-sums` takes one snapshot, and there are several", hint="choose one with `-r`")
        out = self._options.write_sums or Path()
        out = Path(SUMS_NAME) if out == Path() else out
        snapshot = Path(facts.root, "snapshots", commits[0])
        return write_sums(self._disk, snapshot, job.promised[commits[0]], place.verdict, out, job.wanted, self._emit)

    # -- a folder -----------------------------------------------------------------------------------------------

    async def _folder(self, directory: Path) -> tuple[list[Place], ExitCode, str | None]:
        options = self._options
        facts = await anyio.to_thread.run_sync(survey_folder, directory)
        root = Path(facts.root)
        proofs = await anyio.to_thread.run_sync(Proofs.load, self._disk, root / AREA_NAME)
        given = None
        if options.repo is not None:
            reference = parse_reference(
                options.repo, kind=options.repo_type, revision=options.revision, hosts=self._hosts
            )
            given = reference.ref
        identity = await anyio.to_thread.run_sync(identify, facts, given, self._hosts)
        revision = options.revision or (given.revision if given is not None and identity.commit is None else None)
        if revision is not None and options.sums is None:
            identity = replace(identity, commit=await self._folder_commit(identity, revision, facts))
        if options.sums is not None:
            found, bad = await anyio.to_thread.run_sync(lambda: read_sums(options.sums or Path(), must=True))
            if bad:
                message = f"`{options.sums}`: {bad} lines are no sha256 sums, or contradict others"
                self._emit(events.Note(level="warning", message=message))
            promises = {
                path: Promised(Digest(algo="sha256", hex=sha256), None, Evidence.SUMS) for path, sha256 in found.items()
            }
            complete, truth = True, Truth()
        else:
            promises, complete, truth = await truth_about_folder(
                facts, identity, hub=self.hub, proofs=proofs, again=options.deep
            )
            self._tell_doubts(str(directory), truth)
            if identity.repo is None and self.hub is not None:
                message = f"nothing in `{directory}` says which repo it holds: held against what lies there"
                self._emit(events.Note(level="warning", message=f"{message} (name it with `--repo`)"))
        facts = _without_sums(facts, promises, options.sums)
        wanted = self._wanted()
        job = Job(
            facts=facts,
            identity=identity,
            proofs=proofs,
            promised={identity.commit or "": promises},
            truth=truth,
            area=root / AREA_NAME,
            wanted=wanted,
            complete=complete,
        )
        asked = await anyio.to_thread.run_sync(folder_questions, facts, promises, wanted)
        await anyio.to_thread.run_sync(self._sort_out, job, asked)
        await self.measure([job])
        await anyio.to_thread.run_sync(self._hide_area, job.area)
        place = await anyio.to_thread.run_sync(self._judge_folder, job, promises)
        sums = None
        if options.write_sums is not None:
            out = root / SUMS_NAME if options.write_sums == Path() else options.write_sums
            # `sha256sum` follows links, and what a committed link leads to is not the repo's, if anything is there.
            files = {path: promise for path, promise in promises.items() if not isinstance(facts.files.get(path), str)}
            sums = await anyio.to_thread.run_sync(
                write_sums, self._disk, root, files, place.verdict, out, wanted, self._emit
            )
        return [place], ExitCode.CLEAN, sums

    def _hide_area(self, area: Path) -> None:
        """Keep our notes out of a clone's `git status`; a read-only folder has none."""
        if area.is_dir() and not (area / ".gitignore").exists():
            with suppress(DiskError):
                self._disk.write_file(area / ".gitignore", b"*", durable=False)

    async def _folder_commit(self, identity: Identity, revision: str, facts: FolderFacts) -> Any:
        if is_commit(revision):
            return revision
        if self.hub is not None and identity.repo is not None:
            kind, repo_id = identity.repo
            return await self.hub.resolve_commit(RepoRef(kind=kind, repo_id=repo_id, revision=revision))
        for _, name, commit in facts.refs:
            if name == revision:
                return commit
        raise AbsentError(
            f"nothing in `{facts.root}` says what `{revision}` is",
            hint="name the repo with `--repo`, without `--offline`",
        )

    def _judge_folder(self, job: Job, promises: Promises) -> Place:
        facts = job.facts
        assert isinstance(facts, FolderFacts)
        files: list[tuple[str | None, str, Evidence, How]] = []
        verdict = judge_folder(
            facts,
            promises,
            job.answers,
            complete=job.complete,
            broken=job.truth.broken,
            wanted=job.wanted,
            tell=(lambda *good: files.append(good)) if self._options.details else None,
        )
        repo, commit = job.identity.repo, job.identity.commit
        return Place(
            target=facts.root,
            in_cache=False,
            repo_id=None if repo is None else repo[1],
            repo_type=None if repo is None else repo[0],
            commits=() if commit is None else (commit,),
            verdict=verdict,
            files=tuple(files),
        )

    # -- both ---------------------------------------------------------------------------------------------------

    def _wanted(self, *, part: bool = False) -> Callable[[str], bool]:
        include, exclude = self._options.include, self._options.exclude
        if not include and not exclude:
            return (lambda path: True) if part else everything
        from fetchverify.core.select import chooser

        return chooser(include, exclude)

    def _sort_out(self, job: Job, asked: list[Question]) -> None:
        """Answer from the ledger what it knows; the rest is to be read."""
        knows, answers = job.proofs.knows, job.answers
        if self._options.deep:
            job.questions = asked
            return
        maps = job.facts.area.block_maps if self._options.quick else frozenset()
        known = Answer(How.LEDGER)
        for question in asked:
            digest = question.digest
            if (
                digest is not None
                and knows(digest, question.state)
                and question.size in (None, question.state.st_size)
                and not (maps and digest.key in maps)
            ):
                answers[question.key] = known
            else:
                job.questions.append(question)

    async def measure(self, jobs: list[Job]) -> None:
        """Read what has to be read, place after place."""
        files = sum(len(job.questions) for job in jobs)
        size = sum(question.state.st_size for job in jobs for question in job.questions)
        if not files:
            return
        self._emit(events.AuditPlanned(files=files, size=size))
        for job in jobs:
            if not job.questions:
                continue
            learner = Learner(self._disk, job.proofs, Path(job.facts.root))
            files_before, bytes_before = self._files, self._bytes

            def tell(files: int, size: int, files_before: int = files_before, bytes_before: int = bytes_before) -> None:
                self._files, self._bytes = files_before + files, bytes_before + size
                self._emit(events.AuditProgress(files=self._files, size=self._bytes))

            def block_map(question: Question, area: Path = job.area) -> Any:
                if question.digest is None:
                    return None
                return load_block_map(area, question.digest, question.state.st_size)

            try:
                job.answers |= await self._auditor.answer(
                    job.questions,
                    block_map=block_map,
                    quick=self._options.quick,
                    blocks_first=self._options.blocks_first,
                    done=learner.learn,
                    tell=tell,
                )
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(learner.close)


def _check(options: VerifyOptions) -> None:
    """Refuse what makes no sense.

    Raises:
        UsageError: with what to type instead.
    """
    if (options.target is None) != options.all:
        if options.all:
            raise UsageError("`--all` is the whole cache: it takes no REPO_ID")
        raise UsageError("nothing was named", hint="type `org/name`, a path such as `./name`, or `--all`")
    if options.quick and options.deep:
        raise UsageError("`--quick` and `--deep` exclude each other")
    if options.all and options.revision is not None:
        raise UsageError("`--all` takes every revision that is there", hint="leave out `-r`")
    if options.all and options.write_sums is not None:
        raise UsageError("`--write-sums` takes one repo, not `--all`")
    folder = options.target is not None and is_path(options.target) and _inside_a_cache(options.target) is None
    if not folder and options.sums is not None:
        raise UsageError("`--sums` goes with a folder: type its path, such as `./name`")
    if not folder and options.repo is not None:
        raise UsageError("`--repo` says what a folder holds: type its path, such as `./name`")


def _inside_a_cache(target: str) -> dict[str, Any] | None:
    """Return the options that stand for a path of a cache, one of its repos or snapshots; None for other paths."""
    if not is_path(target):
        return None
    path = Path(os.path.realpath(Path(target).expanduser()))
    for folder in (path, *path.parents):
        repo = repo_of(folder.name)
        if repo is not None and ((folder / "snapshots").is_dir() or (folder / "refs").is_dir()):
            inside = path.relative_to(folder).parts
            found: dict[str, Any] = {"target": repo[1], "repo_type": repo[0], "cache_dir": folder.parent}
            if len(inside) == 2 and inside[0] == "snapshots":
                return found | {"revision": inside[1]}
            return found if not inside else None
    if path.is_dir() and (path / "CACHEDIR.TAG").is_file() and repo_folders(path):
        return {"target": None, "all": True, "cache_dir": path}
    return None


def _directory(text: str) -> Path:
    directory = Path(text).expanduser()
    if not directory.is_dir():
        raise AbsentError(f"there is no folder `{text}`")
    return directory


def _without_sums(facts: FolderFacts, promises: Promises, sums: Path | None) -> FolderFacts:
    """Return the facts without the file of sums, which is not the repo's, unless it is."""
    names = {SUMS_NAME} if sums is None else {SUMS_NAME, os.path.relpath(os.path.realpath(sums), facts.root)}
    files = {path: entry for path, entry in facts.files.items() if path not in names or path in promises}
    return replace(facts, files=files)


def _not_in_cache(target: str, ref: RepoRef, cache_dir: Path) -> FetchverifyError:
    kind = "" if ref.kind == "model" else f" -t {ref.kind}"
    hint = f"`fetchverify get{kind} {ref.repo_id}` puts it there"
    if Path(target).is_dir():
        hint = f"for the folder of this name type `./{target}`; {hint}"
    return AbsentError(f"{ref.kind} `{ref.repo_id}` is not in the cache `{cache_dir}`", hint=hint)
