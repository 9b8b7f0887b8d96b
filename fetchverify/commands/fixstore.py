"""The mending of the store that all repos of a cache share: bad payloads, lost references, modes, the marker."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from fetchverify.commands.fixing import OWNER_READS, Repo
from fetchverify.core.facts import CacheFacts
from fetchverify.core.fixed import FixedPlace
from fetchverify.core.judging.store import judge_store
from fetchverify.core.repair import Act, Repair, plan_repair
from fetchverify.store import sharedblobs
from fetchverify.store.disk import Disk
from fetchverify.store.mending import Mender
from fetchverify.store.survey import survey_store


class SharedStore:
    """The store, with what was mended in it so far."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.mended: set[str] = set()  # payloads

    def mend_payloads(self, repo: Repo, mender: Mender) -> None:
        """Put good bytes in the place of bad payloads of the shared store, for all repos that link to them."""
        cache = repo.cache
        for step in repo.repair.of(Act.RESTORE):
            link = repo.facts.blob_links.get(step.key.removeprefix("blobs/"))
            if link is None or link.where is None or link.where not in repo.repair.bad or step.digest is None:
                continue
            if link.where in self.mended:
                continue
            blob, payload = cache.blob(step.digest), Path(link.where)
            good = cache.find_blob(step.digest)
            if good is None or not good.proved or good.where != str(blob):
                continue
            if sharedblobs.replace(cache.cache_dir, payload.name, blob, good.size):
                cache.proofs.add(step.digest, payload.lstat())
                cache.proofs.flush()
                self.mended.add(link.where)
            else:
                # Nobody must be linked to it any more.
                mender.set_aside(os.path.relpath(payload, cache.root), step.digest, "a shared payload is corrupt")

    async def fix(self, cache_dir: Path, facts: list[CacheFacts], *, dry_run: bool) -> list[FixedPlace]:
        """Mend what the survey finds; return the store as a place, or none where nothing was wrong."""
        store = await anyio.to_thread.run_sync(survey_store, cache_dir)
        findings = judge_store(store, facts).findings
        empty = replace(facts[0], root=store.root) if facts else CacheFacts(root=store.root, now=time.time())
        repair = plan_repair(empty, findings, {}, {})
        if not repair.steps and not repair.left:
            return []
        if not dry_run:
            await anyio.to_thread.run_sync(self._store_steps, cache_dir, repair)
        return [
            FixedPlace(
                name="shared blobs",
                repo_type=None,
                target=store.root,
                steps=tuple(repair.steps),
                left=tuple(repair.left),
            )
        ]

    def _store_steps(self, cache_dir: Path, repair: Repair) -> None:
        mender = Mender(self._disk, cache_dir / "blobs", cache_dir / "blobs", "shared blobs")
        for step in repair.steps:
            key = os.path.relpath(cache_dir / step.key, cache_dir / "blobs")
            match step.act:
                case Act.PERMIT:
                    mender.permit(key, OWNER_READS)
                case Act.CLOSE:
                    mender.close(key)
                case Act.MARK:
                    mender.mark_store(cache_dir)
                case Act.REFER:
                    for user in step.names:
                        sharedblobs.refer(cache_dir, step.key.rpartition("/")[2], user)
