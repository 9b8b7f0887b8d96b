"""The verification of a plain folder or a clone, against its repo, a file of sums, or what lies in it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread

from fetchverify import events
from fetchverify.commands.sums import write_sums
from fetchverify.commands.truth import SUMS_NAME, Identity, Truth, identify, read_sums, truth_about_folder
from fetchverify.commands.verification import Job, Verification
from fetchverify.core.facts import Evidence, FolderFacts, How, Promised, Promises
from fetchverify.core.judging.folder import judge_folder
from fetchverify.core.judging.questions import folder_questions
from fetchverify.core.manifest import Digest, RepoRef
from fetchverify.core.paths import WEIGHT_ENDINGS
from fetchverify.core.reference import parse_reference
from fetchverify.core.tree import is_commit
from fetchverify.core.verified import Place
from fetchverify.errors import AbsentError, DiskError, ExitCode
from fetchverify.store.area import AREA_NAME
from fetchverify.store.proofs import Proofs
from fetchverify.store.surveyfolder import survey_folder


class FolderVerification(Verification):
    """A run over one folder."""

    async def places(self, directory: Path) -> tuple[list[Place], ExitCode, str | None]:
        """Return the folder as the only place, how the asking ended, and where sums were written."""
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
            weights=tuple((None, path) for path in facts.files if path.endswith(WEIGHT_ENDINGS)),
        )


def _without_sums(facts: FolderFacts, promises: Promises, sums: Path | None) -> FolderFacts:
    """Return the facts without the file of sums, which is not the repo's, unless it is."""
    names = {SUMS_NAME} if sums is None else {SUMS_NAME, os.path.relpath(os.path.realpath(sums), facts.root)}
    files = {path: entry for path, entry in facts.files.items() if path not in names or path in promises}
    return replace(facts, files=files)
