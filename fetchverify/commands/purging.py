"""Removes what is whole but stale from a cache, where that was asked for: refs first, blobs last."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fetchverify.commands.truth import repo_of
from fetchverify.core.facts import CacheFacts, State
from fetchverify.core.judging.links import blob_behind
from fetchverify.core.manifest import Digest
from fetchverify.core.purge import Bytes, Purge, PurgeOptions, Revision, plan_purge
from fetchverify.errors import LockedError
from fetchverify.store import sharedblobs
from fetchverify.store.blockmap import drop_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from fetchverify.store.mending import Mender
from fetchverify.store.quarantine import Quarantine
from fetchverify.store.survey import repo_folders, survey_cache, survey_store

_ACCESS_TIME, _LINK_TIME = "access time", "link time"


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
    sizes = _sizes(facts, cache_dir)
    atimes = knows_access_times(cache_dir)
    revisions = [one for folder, each in facts.items() for one in _revisions(folder, each, atimes=atimes)]
    unlinked = {folder: _unlinked(each, folder, revisions) for folder, each in facts.items()}
    found = plan_purge(revisions, unlinked, sizes, options, now=_now(facts.values())) if options.asked else []
    freed = 0
    if not dry_run:
        for one in found:
            freed += _remove(disk, cache_dir, facts[one.folder], one)
    if options.unreferenced and facts.keys() >= set(repo_folders(cache_dir)) and sharedblobs.sweeps():
        unused = list(_unused_payloads(cache_dir, facts.values()))
        if not dry_run:
            unused = [one for one in unused if sharedblobs.sweep(cache_dir, one.blobs[0])]
            freed += sum(one.frees for one in unused)
        found += unused
    if quarantine:
        for folder in folders:
            kept = Quarantine(disk, HubCache(disk, cache_dir, folder).area)
            freed += kept.size()
            if not dry_run:
                kept.empty()
    return found, freed


def _now(facts: Iterable[CacheFacts]) -> float:
    return max((each.now for each in facts), default=0.0)


def _sizes(facts: Mapping[str, CacheFacts], cache_dir: Path) -> dict[tuple[str, str], Bytes]:
    """Return the bytes of all blobs by folder and name: those of a shared payload have its users for names."""
    sizes = {(folder, name): _bytes(state) for folder, each in facts.items() for name, state in each.blobs.items()}
    users = Counter(link.where for each in facts.values() for link in each.blob_links.values() if link.state)
    if users:
        for folder in repo_folders(cache_dir):
            if folder not in facts:  # not asked about, but it may need a payload
                users.update(link.where for link in survey_cache(cache_dir, folder).blob_links.values() if link.state)
    for folder, each in facts.items():
        for name, link in each.blob_links.items():
            if link.state is not None:
                sizes[folder, name] = _bytes(link.state)._replace(names=link.state.st_nlink - 1 + users[link.where])
    return sizes


def _bytes(state: State) -> Bytes:
    return Bytes((state.st_dev, state.st_ino), state.st_size, state.st_nlink)


def _revisions(folder: str, facts: CacheFacts, *, atimes: bool) -> Iterable[Revision]:
    inodes = {(state.st_dev, state.st_ino): name for name, state in facts.blobs.items()}
    for commit, names in facts.snapshots.items():
        blobs: set[str] = set()
        copies = []
        # One in which there is nothing yet may be somebody's download that has just begun.
        used, told_by = (0.0, _LINK_TIME) if names else _used(f"{facts.root}/snapshots/{commit}", atimes=False)
        for path, entry in names.items():
            if isinstance(entry, str):
                blob = blob_behind(facts.root, commit, path, entry)
            else:
                blob = inodes.get((entry.st_dev, entry.st_ino))
                copies.append(_bytes(entry))
            if blob is not None:
                blobs.add(blob)
            used, told_by = max((used, told_by), _used(f"{facts.root}/snapshots/{commit}/{path}", atimes=atimes))
        yield Revision(
            repo=repo_of(folder) or ("", folder),
            folder=folder,
            commit=commit,
            refs=tuple(ref for ref, named in facts.refs.items() if named == commit),
            blobs=frozenset(blobs),
            used=used,
            told_by=told_by,
            copies=tuple(copies),
        )


def _used(place: str, *, atimes: bool) -> tuple[float, str]:
    """Return when a name's bytes were read last, or the name was made, and which; the file system says no more."""
    try:
        made = (os.lstat(place).st_mtime, _LINK_TIME)
        return max(made, (os.stat(place).st_atime, _ACCESS_TIME)) if atimes else made  # noqa: PTH116
    except OSError:
        return 0.0, _LINK_TIME


def knows_access_times(cache_dir: Path) -> bool:
    """Return whether this file system notes when a file was read."""
    try:
        return not os.statvfs(cache_dir).f_flag & getattr(os, "ST_NOATIME", 1024)
    except OSError:
        return False


def _unlinked(facts: CacheFacts, folder: str, revisions: Iterable[Revision]) -> list[str]:
    led_to = {blob for each in revisions if each.folder == folder for blob in each.blobs}
    named = (*facts.blobs, *facts.blob_links)
    return [name for name in named if name not in led_to and not stat.S_ISDIR(_mode(facts, name))]


def _mode(facts: CacheFacts, name: str) -> int:
    state = facts.blobs.get(name)
    return 0 if state is None else state.st_mode


def _unused_payloads(cache_dir: Path, facts: Iterable[CacheFacts]) -> Iterator[Purge]:
    """Yield the shared store's payloads that nobody links to; one whose list is lost is never removed by the hub."""
    used = {link.where for each in facts for link in each.blob_links.values()}
    store = survey_store(cache_dir)
    for name, (state, refs) in store.payloads.items():
        if refs is not None and f"{store.root}/{name[:2]}/{name}" not in used:
            frees = state.st_size if state.st_nlink == 1 else 0
            yield Purge(folder="blobs", commit="", blobs=(name,), frees=frees, why="no repo uses it")


def _remove(disk: Disk, cache_dir: Path, facts: CacheFacts, one: Purge) -> int:
    """Remove one revision or blob, in an order that never leaves a name without its bytes."""
    cache = HubCache(disk, cache_dir, one.folder)
    mender = Mender(disk, cache.root, cache.area, one.folder)
    freed = 0
    if one.commit:
        for ref, named in facts.refs.items():
            if named == one.commit == cache.read_ref(ref):
                mender.remove(f"refs/{ref}")
        freed += mender.remove_at_once(f"snapshots/{one.commit}")
        mender.remove(f".no_exist/{one.commit}")
        mender.remove(f"trees/{one.commit}.json")
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
