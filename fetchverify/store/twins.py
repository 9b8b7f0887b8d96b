"""Other repos' hard links to a bad inode: they get the good one, fetched once; which they are is found by looking."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fetchverify.core.facts import State
from fetchverify.core.manifest import Digest
from fetchverify.store.area import Area
from fetchverify.store.disk import Disk, temporary_name
from fetchverify.store.hubcache import HubCache


def relink_twins(
    disk: Disk, cache: HubCache, folders: list[str], digest: Digest, seen: State, good: Path
) -> list[Path]:
    """Put a proved blob in the place of its bad twins in other repos; return their paths.

    Args:
        disk: takes the writes.
        cache: the repo that was mended.
        folders: of all repos of the cache.
        digest: the blob's.
        seen: the bad inode, as it was before.
        good: where the proved bytes lie.

    Raises:
        DiskError: a twin could not be replaced.
        LockedError: somebody downloads it this moment.
    """
    mended: list[Path] = []
    for folder in folders:
        twin = HubCache(disk, cache.cache_dir, folder)
        place = twin.blob(digest)
        if twin.root == cache.root or not _is(place, seen):
            continue
        with twin.lock_name(digest.hex, timeout_s=0):
            if not _is(place, seen):
                continue
            area = Area(disk, twin.area)
            area.prepare()
            fresh = temporary_name(area.staging)
            disk.link(good, fresh)
            disk.rename(fresh, place)
            disk.fsync_dir(place.parent)
            twin.proofs.add(digest, place.lstat())
            twin.proofs.flush()
        mended.append(Path(os.path.realpath(place.parent), place.name))
    return mended


def _is(place: Path, seen: State) -> bool:
    with suppress(OSError):
        now = os.lstat(place)
        return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)
    return False
