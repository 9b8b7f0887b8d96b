"""The steps of a repair that need no listing: a name is removed, permitted, set aside, or asked for anew."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import anyio.to_thread

from fetchverify.commands.fixing import Noting, Repo
from fetchverify.commands.verification import Verification
from fetchverify.core.findings import Kind
from fetchverify.core.manifest import RepoRef
from fetchverify.core.repair import Act, Step, seen_state
from fetchverify.errors import FetchverifyError, LockedError
from fetchverify.store.disk import Disk
from fetchverify.store.mending import Mender
from fetchverify.store.owner import Life, look, myself


class SmallSteps:
    """Takes them, repo after repo, and counts what came free."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.freed = 0

    def take(self, repo: Repo, mender: Mender, steps: Iterable[Step]) -> None:
        """Do all of these that need neither the network nor a listing."""
        for step in steps:
            seen = seen_state(repo.facts, step.key)
            with Noting(repo.failed, step):
                if seen is not None and step.act is not Act.RESTORE and not mender.is_still(step.key, seen):
                    repo.failed[step.key] = "it changed while the cache was looked at"
                    continue
                match step.act:
                    case Act.REMOVE:
                        self.freed += self._remove(repo, mender, step)
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

    def _remove(self, repo: Repo, mender: Mender, step: Step) -> int:
        if step.kind is Kind.DEAD_PARTIAL and look(mender.place(step.key), myself()).life is not Life.DEAD:
            raise LockedError("another process went on with it")
        if step.kind not in (Kind.INCOMPLETE, Kind.STALE_LOCK):
            return mender.remove(step.key)
        # The hub's client holds this lock as long as it writes.
        etag = step.key.rpartition("/")[2].partition(".")[0]
        with repo.cache.lock_name(etag, timeout_s=0):
            return mender.remove(step.key)

    async def ask_anew(self, verification: Verification, repo: Repo, mender: Mender) -> None:
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
            with Noting(repo.failed, step):
                if repo.cache.read_ref(step.key.removeprefix("refs/")) is not None:
                    continue  # somebody was faster
                if commit is not None and commit in repo.facts.snapshots:
                    await anyio.to_thread.run_sync(self._disk.make_dirs, place.parent)
                    await anyio.to_thread.run_sync(self._disk.write_file, place, commit.encode())
                else:
                    await anyio.to_thread.run_sync(mender.remove, step.key)
                repo.done.append(step)
