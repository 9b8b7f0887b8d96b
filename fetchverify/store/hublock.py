"""The lock files of the hub's client: held while a blob is published, waited for in short steps."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from fetchverify.errors import LockedError
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import disk_error
from fetchverify.store.holders import holder_of

OnWait: TypeAlias = Callable[[str, float], None]

_STEP_S = 0.2  # how long a cancelled waiter may sleep on
_MODE = 0o664  # as `WeakFileLock`: several users share a cache


@contextmanager
def hub_lock(disk: Disk, path: Path, on_wait: OnWait, timeout_s: float | None) -> Iterator[None]:
    """Hold a lock file as the hub's client does (`WeakFileLock`), waiting in short steps."""
    quick = _lock_at_once(path)
    if quick is not None:
        try:
            yield
        finally:
            os.close(quick)
        return
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    disk.make_dirs(path.parent)
    began = told = time.monotonic()
    while True:
        lock = WeakFileLock(path, timeout=_STEP_S)
        try:
            lock.__enter__()
            break
        except Timeout:
            pass
        except OSError as error:
            raise disk_error(error, "lock", path) from error
        now = time.monotonic()
        if timeout_s is not None and now - began >= timeout_s:
            holder = holder_of(path) or "another process"
            raise LockedError(
                f"{holder} has held `{path}` for {now - began:.0f} s",
                hint="another download of this file is running; wait for it, or end it",
                holder=holder,
            )
        if now - told >= 1 or told == began:
            told = now
            on_wait(f"{holder_of(path) or 'another process'}, which holds `{path}`", now - began)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _lock_at_once(path: Path) -> int | None:
    """Return a descriptor that holds the lock until it is closed; None where that takes more than a moment.

    What filelock does where nothing is in the way, at a tenth of its price: a repo of 100,000 small files takes as
    many locks. All else (a holder, a folder to be made, a file system without `flock`, somebody else's file) is left
    to it. The file stays, so that all who wait share its inode.

    Source: filelock 4.3.1 `_native/_unix.py`.
    """
    if os.name != "posix":
        return None
    import fcntl

    flags, created = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, False
    try:
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            fd, created = os.open(path, flags | os.O_CREAT | os.O_EXCL, _MODE), True
    except OSError:
        return None
    try:
        if created:
            os.fchmod(fd, _MODE)  # the umask took its share
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        # Unlinked meanwhile, another user's, or a lock that is held by being there: that takes more care.
        if found.st_nlink == 1 and found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode) and not found.st_size:
            return fd
    except BlockingIOError:
        pass
    except OSError:
        if created:  # no `flock` here: left behind, it would be taken for a lock that is held by being there
            os.unlink(path)  # noqa: PTH108
    os.close(fd)
    return None
