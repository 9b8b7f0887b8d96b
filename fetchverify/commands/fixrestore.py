"""The restoring of a repo's files: linked from good blobs, put together from good blocks, or fetched."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.commands.fixing import FixOptions, Noting, Repo
from fetchverify.commands.verification import Verification
from fetchverify.core.manifest import Manifest, RemoteFile, RepoRef
from fetchverify.core.plan import Plan, plan_fetch
from fetchverify.core.repair import Act, good_blobs, seen_state
from fetchverify.core.report import Outcome
from fetchverify.core.retry import patience
from fetchverify.engine.run import TransferOptions
from fetchverify.errors import AbsentError, ExitCode, LockedError
from fetchverify.store.blockmap import load_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.lockfiles import held_locks
from fetchverify.store.mending import Mender, seed_partial
from fetchverify.store.survey import busy

if TYPE_CHECKING:
    from fetchverify.engine.transfer import Transfer


class Restorer:
    """Restores, repo after repo, and counts what that cost."""

    def __init__(self, options: FixOptions, disk: Disk, emit: events.Emit) -> None:
        self._options = options
        self._disk = disk
        self._emit = emit
        self.fetched = self.requests = 0

    async def restore(self, verification: Verification, repo: Repo, mender: Mender) -> None:
        """Give the repo's snapshots what they lack, commit after commit."""
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
                with Noting(repo.failed, rebuilt[commit]):
                    await anyio.to_thread.run_sync(self._forget_commit, repo, mender, commit)
            if commit in rebuilt:
                repo.done.append(rebuilt[commit])
        for step in repo.repair.of(Act.REBUILD):
            if step.commit is None:  # no folder of snapshots at all
                await anyio.to_thread.run_sync(self._disk.make_dirs, repo.cache.root / "snapshots")
                repo.done.append(step)

    async def _manifest(self, verification: Verification, repo: Repo, commit: str) -> Manifest | None:
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
        self, verification: Verification, repo: Repo, manifest: Manifest, files: Sequence[RemoteFile]
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

    def _wait_for_others(self, repo: Repo, files: Sequence[RemoteFile]) -> None:
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

    def _note(self, repo: Repo, transfer: Transfer, outcomes: Iterable[Outcome]) -> None:
        self.fetched += transfer.run.bytes_fetched
        self.requests += transfer.run.requests
        commit = transfer.run.manifest.commit
        ended = {outcome.path: outcome for outcome in outcomes}
        good = {path for path, outcome in ended.items() if outcome.kind.exit_code is ExitCode.CLEAN}
        for path in ended.keys() - good:
            repo.failed[path] = ended[path].detail or ended[path].kind.value
        repo.outcomes += ended.values()
        repo.done += [step for step in repo.repair.of(Act.RESTORE) if step.commit == commit and step.path in good]

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

    def _seed(self, repo: Repo) -> None:
        """Take the good blocks of damaged blobs over: only the others have to be fetched."""
        for step in repo.repair.of(Act.RESTORE):
            if not step.blocks or step.digest is None or not step.key.startswith("blobs/"):
                continue
            blob = Path(os.path.realpath(repo.cache.root / step.key))
            with suppress(OSError, LockedError):
                block_map = load_block_map(repo.cache.area, step.digest, blob.stat().st_size)
                if block_map is not None:
                    seed_partial(self._disk, repo.cache.area, blob, step.digest, block_map, step.blocks)

    def _forget_commit(self, repo: Repo, mender: Mender, commit: str) -> None:
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


def _still_bad(repo: Repo) -> set[str]:
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
