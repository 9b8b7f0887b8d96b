"""The lock files that the hub's client leaves: which are held, and which nobody needs; taking them is `hublock`'s."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Collection, Container
from pathlib import Path

from fetchverify.core.facts import Lock
from fetchverify.store.area import ORPHAN_S
from fetchverify.store.scan import Scan


def survey_locks(folder: Path, under_way: Collection[str], here: Container[str]) -> dict[str, Lock]:
    """Return the lock files; whether one is held is found out only where it matters, else it is taken to be.

    Args:
        folder: the repo's, in `.locks`.
        under_way: etags of the hub's own partials.
        here: names of the blobs that are there: their locks stay, as the hub leaves them, and are not looked at.
    """
    scan = Scan(str(folder))
    oldest_ns = (time.time() - ORPHAN_S) * 1e9
    found: dict[str, Lock] = {}
    for entry in scan.entries(""):
        etag = entry.name.removesuffix(".lock")
        if etag in here and etag not in under_way:
            continue
        state = scan.state(entry, "")
        if state is not None and stat.S_ISREG(state.st_mode):
            young = state.st_mtime_ns >= oldest_ns and etag not in under_way
            found[entry.name] = Lock(state, young or _held(f"{folder}/{entry.name}"))
    return found


def _held(path: str) -> bool:
    """Return True where somebody holds the lock; taken for a moment, and shared, so that lookers do not collide."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def held_locks(cache_dir: Path, folder: str) -> frozenset[str]:
    """Return the names of a repo's lock files that somebody holds at this moment."""
    scan = Scan(str(cache_dir / ".locks" / folder))
    found = scan.states("").items()
    return frozenset(n for n, state in found if stat.S_ISREG(state.st_mode) and _held(f"{scan.root}/{n}"))
