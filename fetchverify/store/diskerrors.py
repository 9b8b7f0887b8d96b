"""What an `OSError` means for people: which path, why, how much space is missing, what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TypeAlias

from fetchverify.errors import DiskError

AnyPath: TypeAlias = str | os.PathLike[str]

# What no program can be blamed for; XFS says EIO or EUCLEAN, ext4 EROFS, NFS ESTALE when a disk is gone under them.
_FAILING = {
    errno.EIO,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    getattr(errno, "EUCLEAN", 117),
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_HINTS = {
    errno.ENOSPC: "free some space and run the same command again: what arrived is kept",
    errno.EDQUOT: "your quota is used up; free some space and run the same command again: what arrived is kept",
    errno.EROFS: "the file system is mounted read-only; remount it or choose another folder",
    errno.EACCES: "check who owns the folder and its permissions",
    errno.EPERM: "check who owns the folder and its permissions",
    errno.EIO: "the device reports failures; look at `dmesg` and at its health before trying again",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}


_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def forbidden(error: DiskError) -> bool:
    """Return True where the disk is sound, but this user may not write there: it is another's, or read-only."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FORBIDDEN


def _amount(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def free_bytes(path: AnyPath) -> int:
    """Return what the file system of `path` (or of its nearest parent that exists) can still take from this user."""
    here = Path(path).absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    usage = os.statvfs(here)
    return usage.f_bavail * usage.f_frsize


def disk_error(cause: OSError, doing: str, path: AnyPath, needed: int = 0) -> DiskError:
    """Return our error for an `OSError`: what failed, on which path, why, and what to do."""
    code = cause.errno or 0
    message = (
        f"cannot {doing} `{os.fspath(path)}`: {os.strerror(code) if code else cause} ({errno.errorcode.get(code, '?')})"
    )
    if code == errno.EDQUOT:  # how much of the quota is left, the system does not say as it does of the disk
        message += f"; {_amount(needed)} needed" if needed else ""
    elif code == errno.ENOSPC:
        try:
            free = free_bytes(path)
        except OSError:
            free = 0
        message += f"; {_amount(needed)} needed, {_amount(free)} free" if needed else f"; {_amount(free)} free"
    return DiskError(message, hint=_HINTS.get(code), full=code in _FULL)


def is_failing(error: OSError) -> bool:
    """Return True where the disk is to blame, and neither who asked nor what was asked for."""
    return error.errno in _FAILING


def failing_disk(error: BaseException) -> DiskError | None:
    """Return our error where a bare `OSError`, or all of a group, says that a disk fails; None for any other."""
    if isinstance(error, BaseExceptionGroup):
        found = [failing_disk(one) for one in error.exceptions]
        return found[0] if all(found) else None
    if isinstance(error, OSError) and is_failing(error) and isinstance(error.filename, str | bytes | os.PathLike):
        return disk_error(error, "use", os.fsdecode(error.filename))
    return None
