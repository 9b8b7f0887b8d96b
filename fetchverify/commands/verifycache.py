"""The verification of what lies in a cache: one repo, one revision of it, or all of them and the store they share."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio.to_thread

from fetchverify.commands.sums import write_sums
from fetchverify.commands.truth import SUMS_NAME, Identity, Truth, repo_of, truth_about
from fetchverify.commands.verification import Job, Verification
from fetchverify.core.facts import CacheFacts, Evidence, How
from fetchverify.core.findings import Verdict
from fetchverify.core.judging.cache import judge_cache, judge_contents
from fetchverify.core.judging.questions import cache_questions
from fetchverify.core.judging.store import judge_store
from fetchverify.core.manifest import RepoRef
from fetchverify.core.paths import WEIGHT_ENDINGS
from fetchverify.core.reference import parse_reference
from fetchverify.core.verified import Place
from fetchverify.errors import AbsentError, ExitCode, FetchverifyError, UsageError
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.proofs import Proofs, source_of
from fetchverify.store.seal import Seal, fingerprint, read_seal, seal_of
from fetchverify.store.survey import repo_folders, survey_cache, survey_store


class CacheVerification(Verification):
    """A run over a cache; `survey_repo`, `measure` and `judge_repo` are its steps for one repo."""

    async def places(self) -> tuple[list[Place], ExitCode, str | None]:
        """Return the repos and the shared store, how the asking ended, and where sums were written."""
        from huggingface_hub import constants

        options = self._options
        if not self._may_seal or _names_a_host(options.target):
            await self.connect()
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
        wanted = self._wanted()
        sealable = sealed and revision is None
        known = read_seal(cache.area, asked=self.may_ask) if sealable else None
        stood = None if known is None else known.folders
        facts = await anyio.to_thread.run_sync(partial(survey_cache, cache_dir, folder, sealed=stood))
        if known is not None and await anyio.to_thread.run_sync(self._unchanged, cache.area, facts, known):
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
        if stood:  # not to be believed in anything: all is read
            facts = await anyio.to_thread.run_sync(survey_cache, cache_dir, folder)
        await self.connect()
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

    def _unchanged(self, area: Path, facts: CacheFacts, seal: Seal) -> bool:
        """Return whether a folder is as it was when it was sealed."""
        ledger, asked = source_of(area), self.may_ask
        if not seal.holds(facts, ledger, asked=asked):
            return False
        # Some came to rest since: the next run need not read them.
        if seal.folders.keys() != facts.folders.keys() and not facts.unreadable:
            found = fingerprint(facts, ledger, asked=asked, folders=facts.folders)
            if found is not None:
                seal._replace(folders=facts.folders).write(self._disk, area, found, asked=asked)
        return True

    def _seal(self, job: Job, verdict: Verdict, weights: tuple[tuple[str, str], ...]) -> None:
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
        found = fingerprint(facts, proofs.source, asked=asked, folders=facts.folders)
        if found is not None:
            seal_of(verdict, facts.folders, weights).write(self._disk, job.area, found, asked=asked)

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
        if job.known is not None:
            known, weights = job.known.verdict, job.known.weights
        else:
            known = judge_contents(facts, job.promised, job.answers, wanted=job.wanted, tell=tell)
            weights = _weights(facts)
            if job.sealable:
                self._seal(job, known, weights)
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
            weights=weights,
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


def _names_a_host(target: str | None) -> bool:
    """Return whether an address may have to be held against the endpoint's."""
    return target is not None and (target.count("/") > 1 or ":" in target)


def _not_in_cache(target: str, ref: RepoRef, cache_dir: Path) -> FetchverifyError:
    kind = "" if ref.kind == "model" else f" -t {ref.kind}"
    hint = f"`fetchverify get{kind} {ref.repo_id}` puts it there"
    if Path(target).is_dir():
        hint = f"for the folder of this name type `./{target}`; {hint}"
    return AbsentError(f"{ref.kind} `{ref.repo_id}` is not in the cache `{cache_dir}`", hint=hint)


def _weights(facts: CacheFacts) -> tuple[tuple[str, str], ...]:
    return tuple(
        (commit, path) for commit, names in facts.snapshots.items() for path in names if path.endswith(WEIGHT_ENDINGS)
    )
