"""Removes what is whole but stale from a cache, where that was asked for: refs first, blobs last."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from fetchverify.commands.truth import repo_of
from fetchverify.core.facts import CacheFacts
from fetchverify.core.judging.links import blob_behind
from fetchverify.core.manifest import Digest
from fetchverify.core.purge import Purge, PurgeOptions, Revision, plan_purge
from fetchverify.errors import LockedError
from fetchverify.store import sharedblobs
from fetchverify.store.blockmap import drop_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from fetchverify.store.mending import Mender
from fetchverify.store.quarantine import Quarantine
from fetchverify.store.survey import survey_cache

Sizes = dict[tuple[str, str], tuple[object, int]]


def purge(
    disk: Disk,
    cache_dir: Path,
    folders: Sequence[str],
    options: PurgeOptions,
    *,
    dry_run: bool,
    quarantine: bool,
) -> tuple[list[Purge], int]:
    """Remove what the options ask for; return what went (in a dry run: would go) and the bytes that are free now.

    Raises:
        DiskError: something could not be removed.
    """
    facts = {folder: survey_cache(cache_dir, folder) for folder in folders}
    sizes: Sizes = {}
    revisions = [one for folder, each in facts.items() for one in _revisions(folder, each, sizes)]
    unlinked = {folder: _unlinked(each, folder, revisions) for folder, each in facts.items()}
    for folder, names in unlinked.items():
        for name in names:
            _measure(facts[folder], folder, name, sizes, 0)
    found = plan_purge(revisions, unlinked, sizes, options, now=_now(facts.values())) if options.asked else []
    freed = 0
    if not dry_run:
        for one in found:
            freed += _remove(disk, cache_dir, facts[one.folder], one)
    if quarantine:
        for folder in folders:
            kept = Quarantine(disk, HubCache(disk, cache_dir, folder).area)
            freed += kept.size()
            if not dry_run:
                kept.empty()
    return found, freed


def _now(facts: Iterable[CacheFacts]) -> float:
    return max((each.now for each in facts), default=0.0)


def _revisions(folder: str, facts: CacheFacts, sizes: Sizes) -> Iterable[Revision]:
    inodes = {(state.st_dev, state.st_ino): name for name, state in facts.blobs.items()}
    for commit, names in facts.snapshots.items():
        blobs: defaultdict[str, int] = defaultdict(int)
        used = 0.0
        for path, entry in names.items():
            place = f"{facts.root}/snapshots/{commit}/{path}"
            if isinstance(entry, str):
                blob = blob_behind(facts.root, commit, path, entry)
            else:
                blob = inodes.get((entry.st_dev, entry.st_ino))
                if blob is not None:
                    blobs[blob] += 1
            used = max(used, _used(place))
            if blob is not None:
                blobs[blob] += 0
        for blob, copies in blobs.items():
            _measure(facts, folder, blob, sizes, copies)
        yield Revision(
            repo=repo_of(folder) or ("", folder),
            folder=folder,
            commit=commit,
            refs=tuple(ref for ref, named in facts.refs.items() if named == commit),
            blobs=frozenset(blobs),
            used=used,
        )


def _used(place: str) -> float:
    """Return when a name's bytes were read last, or the name was made; the file system says no more."""
    try:
        link, seen = os.lstat(place), os.stat(place)  # noqa: PTH116
    except OSError:
        return 0.0
    return max(link.st_mtime, seen.st_atime)


def knows_access_times(cache_dir: Path) -> bool:
    """Return whether this file system notes when a file was read."""
    try:
        return not os.statvfs(cache_dir).f_flag & getattr(os, "ST_NOATIME", 1024)
    except OSError:
        return False


def _measure(facts: CacheFacts, folder: str, blob: str, sizes: Sizes, copies: int) -> None:
    """Note whose bytes a blob's are, and how many go with it: none where another name outside has them."""
    state = facts.blobs.get(blob)
    if state is None:
        link = facts.blob_links.get(blob)
        state = None if link is None else link.state
        if state is None:
            return
    alone = state.st_nlink <= 1 + copies
    sizes[folder, blob] = ((state.st_dev, state.st_ino), state.st_size if alone else 0)


def _unlinked(facts: CacheFacts, folder: str, revisions: Iterable[Revision]) -> list[str]:
    led_to = {blob for each in revisions if each.folder == folder for blob in each.blobs}
    named = (*facts.blobs, *facts.blob_links)
    return [name for name in named if name not in led_to and not stat.S_ISDIR(_mode(facts, name))]


def _mode(facts: CacheFacts, name: str) -> int:
    state = facts.blobs.get(name)
    return 0 if state is None else state.st_mode


def _remove(disk: Disk, cache_dir: Path, facts: CacheFacts, one: Purge) -> int:
    """Remove one revision or blob, in an order that never leaves a name without its bytes."""
    cache = HubCache(disk, cache_dir, one.folder)
    mender = Mender(disk, cache.root, cache.area, one.folder)
    if one.commit:
        for ref, named in facts.refs.items():
            if named == one.commit:
                mender.remove(f"refs/{ref}")
        mender.remove_at_once(f"snapshots/{one.commit}")
        mender.remove(f".no_exist/{one.commit}")
        mender.remove(f"trees/{one.commit}.json")
    freed = 0
    for blob in one.blobs:
        with suppress(LockedError):  # somebody downloads it this moment: it is wanted again
            freed += _remove_blob(disk, cache, facts, mender, blob)
    return freed


def _remove_blob(disk: Disk, cache: HubCache, facts: CacheFacts, mender: Mender, blob: str) -> int:
    link = facts.blob_links.get(blob)
    with cache.lock_name(blob, timeout_s=0):
        freed = mender.remove(f"blobs/{blob}")
    algo = "sha256" if len(blob) == 64 else "git-sha1"
    drop_block_map(disk, cache.area, Digest(algo=algo, hex=blob))  # type: ignore[arg-type]
    if link is not None and link.where is not None and link.state is not None:
        gone = sharedblobs.sweep(cache.cache_dir, Path(link.where).name)
        freed += link.state.st_size if gone else 0
    return freed
