"""The steps of a repair that need no listing: a name is removed, permitted, set aside, or asked for anew."""

from __future__ import annotations

from contextlib import suppress

import anyio.to_thread

from fetchverify.commands.fixing import OWNER_READS, Noting, Repo
from fetchverify.commands.verification import Verification
from fetchverify.core.findings import Kind
from fetchverify.core.manifest import RepoRef
from fetchverify.core.repair import Act, Step
from fetchverify.errors import FetchverifyError
from fetchverify.store.disk import Disk
from fetchverify.store.mending import Mender


class SmallSteps:
    """Takes them, repo after repo, and counts what came free."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.freed = 0

    def take(self, repo: Repo, mender: Mender) -> None:
        """Do all that needs neither the network nor a listing."""
        for step in repo.repair.steps:
            with Noting(repo, step):
                match step.act:
                    case Act.REMOVE:
                        self.freed += self._remove(repo, mender, step)
                    case Act.PERMIT:
                        mender.permit(step.key, OWNER_READS)
                    case Act.SET_ASIDE:
                        mender.set_aside(step.key, step.digest, step.kind.value)
                    case Act.RESTORE:
                        mender.clear(step.key)
                        mender.clear(f"snapshots/{step.commit}/{step.path}")
                        continue
                    case _:
                        continue
                repo.done.append(step)

    def _remove(self, repo: Repo, mender: Mender, step: Step) -> int:
        if step.kind is not Kind.INCOMPLETE:
            return mender.remove(step.key)
        # The hub's client holds this lock as long as it writes.
        etag = step.key.rpartition("/")[2].partition(".")[0]
        with repo.cache.lock_name(etag, timeout_s=0):
            return mender.remove(step.key)

    async def ask_anew(self, verification: Verification, repo: Repo) -> None:
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
            with Noting(repo, step):
                if commit is not None and commit in repo.facts.snapshots:
                    await anyio.to_thread.run_sync(self._disk.write_file, place, commit.encode())
                else:
                    await anyio.to_thread.run_sync(self._disk.unlink, place)
                repo.done.append(step)
