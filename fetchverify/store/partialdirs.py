"""Where partials lie, what their journals say, and how a run comes to own one; filling it is left to `partial`."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fetchverify.core.blocks import BLOCK_SIZE, BlockMap, Tiling, decode_journal
from fetchverify.core.manifest import Digest, RemoteFile
from fetchverify.core.plan import Seen
from fetchverify.errors import LockedError
from fetchverify.store.disk import Disk
from fetchverify.store.holders import process
from fetchverify.store.owner import Hold, Life, Owner, claim, look, myself

GONE = ".gone-"  # a directory on its way out; never looked at again


def read_journal(folder: Path, tiling: Tiling, key: str) -> tuple[BlockMap, int]:
    """Return what a partial's journal vouches for and its valid length; nothing where data or journal do not fit."""
    try:
        data = (folder / "data").lstat()
        if not stat.S_ISREG(data.st_mode) or data.st_size != tiling.size:
            return BlockMap(tiling=tiling, hashes={}), 0
        raw = (folder / "journal").read_bytes()
    except OSError:
        return BlockMap(tiling=tiling, hashes={}), 0
    return decode_journal(raw, tiling, key)


def _names(area: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in (area / "partial").iterdir())
    except OSError:
        return []


def candidates(area: Path, key: str) -> Iterator[Path]:
    """Yield every directory, ours or foreign, that holds something unfinished of this digest."""
    for name in _names(area):
        if name == key or (name.startswith(key + ".") and len(name) == len(key) + 9):
            yield area / "partial" / name


def partial_keys(area: Path) -> frozenset[str]:
    """Return the digest keys for which something unfinished lies in the area."""
    return frozenset(name.partition(".")[0] for name in _names(area) if name[0] != ".")


def landed_bytes(area: Path, digest: Digest, size: int, *, block_size: int = BLOCK_SIZE) -> int:
    """Return how many bytes a resumed download need not fetch, as far as the journal says; reads no data."""
    tiling = Tiling(size=size, block_size=block_size)
    found = (read_journal(folder, tiling, digest.key)[0].landed for folder in candidates(area, digest.key))
    return max(found, default=0)


def with_partial(seen: Seen, area: Path, file: RemoteFile) -> Seen:
    """Return what was seen of a file, with what its unfinished download adds."""
    landed = landed_bytes(area, file.digest, file.size)
    return replace(seen, landed=landed, reserved=reserved_bytes(area, file.digest, file.size))


def reserved_bytes(area: Path, digest: Digest, size: int) -> int:
    """Return how many bytes of the disk the partial occupies that a resumed download would go on with."""
    found = [_occupied(folder / "data", size) for folder in candidates(area, digest.key)]
    return max(found, default=0)


def _occupied(data: Path, size: int) -> int:
    try:
        found = data.lstat()
    except OSError:
        return 0
    # In units of 512 bytes, whatever the file system's are.
    return min(size, found.st_blocks * 512) if stat.S_ISREG(found.st_mode) and found.st_size == size else 0


def sweep(disk: Disk, area: Path) -> None:
    """Remove what a run that was killed while it published left: directories whose data have their final name."""
    me = myself()
    for name in _names(area):
        folder = area / "partial" / name
        if not _may_write(folder):
            continue
        if name.startswith(GONE):
            disk.remove_tree(folder)
        elif not (folder / "data").exists():
            remove_dead(disk, folder, me)


def remove_dead(disk: Disk, folder: Path, me: Owner) -> None:
    """Remove a directory whose owner is provably gone, unless somebody else claims it first."""
    tenancy = look(folder, me)
    ours = tenancy.life is Life.DEAD and _may_write(folder)
    hold = claim(disk, folder, tenancy, me) if ours else None
    if hold is not None:
        disk.remove_tree(folder)
        hold.drop()


def _may_write(folder: Path) -> bool:
    """Return False for what another user left: its blocks can be copied, but it cannot be gone on with or removed."""
    try:
        names = list(folder.iterdir())
    except FileNotFoundError:
        return True  # whoever claims it will see
    except OSError:
        return False
    # What is gone by now belonged to somebody who claims it this moment.
    ours = (os.access(name, os.R_OK | os.W_OK) or not os.path.lexists(name) for name in names)
    return os.access(folder, os.W_OK | os.X_OK) and all(ours)


def settle(disk: Disk, area: Path, tiling: Tiling, key: str) -> tuple[Path, Hold, list[Path]]:
    """Return a directory that is ours now, our hold on it, and foreign ones to copy from."""
    me = myself()
    for _ in range(1000):
        free: list[tuple[int, Path]] = []
        foreign: list[Path] = []
        tenancies = {folder: look(folder, me) for folder in candidates(area, key)}
        for folder, tenancy in tenancies.items():
            match tenancy.life:
                case Life.LIVE:
                    raise _locked(key, tenancy.owner)
                case Life.DEAD if _may_write(folder):
                    free.append((read_journal(folder, tiling, key)[0].landed, folder))
                case Life.DEAD | Life.UNKNOWN:
                    foreign.append(folder)
        if free:
            folder = max(free)[1]
        elif foreign:
            folder = area / "partial" / f"{key}.{secrets.token_hex(4)}"
            disk.make_dir(folder)
        else:
            folder = area / "partial" / key
            disk.make_dir(folder)
        hold = claim(disk, folder, tenancies.get(folder) or look(folder, me), me)
        if hold is not None:
            return folder, hold, foreign
    raise LockedError(f"`{key}` is claimed again and again by others", hint="try again in a moment")


def _locked(key: str, owner: Owner | None) -> LockedError:
    if owner is None:
        return LockedError(f"`{key}` is being downloaded by another process")
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    # A process of another container has no number here that could be looked up, or killed.
    here = owner.pid_namespace == myself().pid_namespace
    holder = process(owner.pid) if here else f"process {owner.pid} of another container or machine"
    return LockedError(
        f"`{key}` is being downloaded by {holder} since {since}",
        hint=f"wait for it, or end it (`kill {owner.pid}`) and run the same command again" if here else None,
        holder=holder,
    )
