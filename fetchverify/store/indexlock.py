"""Replaces git's index under git's own lock, and releases the lock of a run that was killed; what to write is not ours.

git gives up for good where it finds `index.lock`. The new index is therefore written and synced under a name of ours
beside it, under flock; the lock is a second name of that file, and holds only for as long as two renames take. A lock
that is the same file as one of our names whose flock is free belonged to a dead run.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from fetchverify.errors import DiskError, LockedError
from fetchverify.store.disk import TEMPORARY, Disk, temporary_name
from fetchverify.store.diskerrors import disk_error
from fetchverify.store.owner import NO_LINKS

_LOCK_S = 10.0
_STEP_S = 0.05


def replace_index(disk: Disk, index: Path, before: os.stat_result, write: Callable[[int], None]) -> bool:
    """Replace the index by what `write` puts into a descriptor; False where it is not `before` any more.

    Raises:
        LockedError: another git command holds the index.
        DiskError: it could not be written.
    """
    prepared, lock = temporary_name(index.parent), index.with_name("index.lock")
    fd = disk.create(prepared)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no flock here: our name outlives a crash, and then says nothing
        write(fd)
        disk.fsync(fd)
        disk.set_mode(prepared, stat.S_IMODE(before.st_mode))
        disk.fsync_dir(index.parent)  # or the lock might survive a power cut that our name did not
        _take(disk, prepared, lock)
        try:
            same = os.path.samestat(before, now := index.stat()) and before.st_mtime_ns == now.st_mtime_ns
        except OSError:
            same = False
        if not same:
            disk.unlink(lock, missing_ok=True)
            return False
        try:
            disk.rename(lock, index)
        except BaseException:
            disk.unlink(lock, missing_ok=True)
            raise
        return True
    finally:
        disk.unlink(prepared, missing_ok=True)
        disk.close(fd)


def _take(disk: Disk, prepared: Path, lock: Path) -> None:
    """Give the prepared index the lock's name, which only one process can."""
    until = time.monotonic() + _LOCK_S
    while True:
        try:
            disk.link(prepared, lock)
            return
        except DiskError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_LINKS:
                _take_without_links(disk, prepared, lock, until)
                return
            _wait_or_give_up(error, lock, until)


def _take_without_links(disk: Disk, prepared: Path, lock: Path, until: float) -> None:
    while True:
        try:
            disk.close(disk.create(lock))
            disk.rename(prepared, lock)
            return
        except DiskError as error:
            _wait_or_give_up(error, lock, until)


def _wait_or_give_up(error: DiskError, lock: Path, until: float) -> None:
    if not isinstance(error.__cause__, FileExistsError):
        raise error
    if time.monotonic() > until:
        raise LockedError(
            f"another git command holds `{lock}`; the files are in place, `git status` does not know it yet",
            hint="when it is through, run the same command again; if it crashed, remove that file",
        ) from error
    time.sleep(_STEP_S)


def release_dead(disk: Disk, index: Path) -> None:
    """Remove what killed runs left beside the index: their names, and the lock where it is one of them."""
    lock = index.with_name("index.lock")
    try:
        names = list(index.parent.glob(f"{TEMPORARY}*"))
    except OSError as error:
        raise disk_error(error, "read folder", index.parent) from error
    for name in names:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Under its flock: whoever else releases it comes after us, and finds another lock or none.
            if os.path.lexists(lock) and os.path.samestat(os.fstat(fd), lock.lstat()):
                disk.unlink(lock, missing_ok=True)
            disk.unlink(name, missing_ok=True)
        except OSError:
            pass  # it lives, or there is no flock to tell by
        finally:
            os.close(fd)
