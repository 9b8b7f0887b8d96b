"""The mending of the store that all repos of a cache share: bad payloads, lost references, modes, the marker."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from fetchverify.commands.fixing import Noting, Repo
from fetchverify.core.facts import CacheFacts
from fetchverify.core.findings import Finding, Rank
from fetchverify.core.fixed import FixedPlace
from fetchverify.core.judging.store import judge_store
from fetchverify.core.repair import Act, Repair, plan_repair, seen_state
from fetchverify.store import sharedblobs
from fetchverify.store.disk import Disk
from fetchverify.store.mending import Mender
from fetchverify.store.survey import repo_folders, survey_cache, survey_store
from fetchverify.store.twins import relink_twins

NAME = "shared blobs"


class SharedStore:
    """The store, with what was mended in it so far."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.mended: set[str] = set()  # payloads, and other repos' hard links

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
            with Noting(repo.failed, step):
                if sharedblobs.replace(cache.cache_dir, payload.name, blob, good.size):
                    cache.proofs.add(step.digest, payload.lstat())
                    cache.proofs.flush()
                    self.mended.add(link.where)
                else:
                    # Nobody must be linked to it any more.
                    mender.set_aside(os.path.relpath(payload, cache.root), step.digest, "a shared payload is corrupt")

    def mend_twins(self, repo: Repo) -> None:
        """Give other repos' hard links to bad bytes the good ones: they are fetched once."""
        cache = repo.cache
        for step in repo.repair.of(Act.RESTORE):
            seen = seen_state(repo.facts, step.key)
            if seen is None or seen.st_nlink < 2 or step.digest is None or not step.key.startswith("blobs/"):
                continue
            good = cache.find_blob(step.digest)
            if good is None or not good.proved:
                continue
            with Noting(repo.failed, step):
                folders = repo_folders(cache.cache_dir)
                twins = relink_twins(self._disk, cache, folders, step.digest, seen, Path(good.where))
                self.mended.update(map(str, twins))

    def fix(self, cache_dir: Path, folders: list[str], *, dry_run: bool) -> list[FixedPlace]:
        """Mend what the survey finds; return the store as a place, or none where nothing was wrong."""
        if not (cache_dir / "blobs").is_dir():
            return []
        root, findings = _look(cache_dir, folders)
        repair = plan_repair(CacheFacts(root=root, now=time.time()), findings, {}, {})
        if not repair.steps and not repair.left:
            return []
        done, left = repair.steps, repair.left
        if not dry_run:
            failed = self._take(cache_dir, repair)
            # What is said to be mended was looked at again.
            _, again = _look(cache_dir, folders)
            why = {known.key: text for known, text in repair.left} | failed
            still = {(finding.kind, finding.key) for finding in again}
            done = [step for step in done if (step.kind, step.key) not in still]
            left = [(one, why.get(one.key, "it could not be mended")) for one in again if one.kind.rank is Rank.DAMAGE]
        return [replace(fixed_store(root), steps=tuple(done), left=tuple(left))]

    def _take(self, cache_dir: Path, repair: Repair) -> dict[str, str]:
        """Take the steps; return those that failed, by key, and why."""
        mender = Mender(self._disk, cache_dir / "blobs", cache_dir / "blobs", NAME)
        failed: dict[str, str] = {}
        users: defaultdict[str, list[str]] = defaultdict(list)
        for step in repair.of(Act.REFER):
            users[step.key] += step.names
        for step in repair.steps:
            key = os.path.relpath(cache_dir / step.key, cache_dir / "blobs")
            with Noting(failed, step):
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


def fixed_store(root: str) -> FixedPlace:
    """Return the store as a place in which nothing was wrong."""
    return FixedPlace(name=NAME, repo_type=None, target=root, steps=(), left=())


def _look(cache_dir: Path, folders: list[str]) -> tuple[str, list[Finding]]:
    store = survey_store(cache_dir)
    if not store.payloads and not store.litter:
        return store.root, []
    facts = [survey_cache(cache_dir, folder) for folder in folders]
    return store.root, judge_store(store, facts).findings
