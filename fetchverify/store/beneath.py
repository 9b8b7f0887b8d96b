"""Opens what lies below a root, and nothing else: no link on the way is followed, wherever it leads.

Every component is opened relative to the one before, so that nobody can swap a folder for a link in between.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

# A FIFO must not hold us up, a terminal not become ours, a child process not inherit it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EACCES, errno.EPERM}


def open_beneath(root: Path | str, parts: Sequence[str]) -> tuple[int, os.stat_result] | None:
    """Return a descriptor of a regular file below `root`, to be closed by the caller, and its state.

    None where there is no such file, where one component is a link or no folder, or where we may not read it.

    Args:
        root: may be a link itself: it is the operator's.
        parts: names, one a component; a name that is none (`..`, `a/b`) finds nothing.

    Raises:
        OSError: the disk fails.
    """
    if not parts or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        return None
    opened = -1
    try:
        opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for folder in parts[:-1]:
            opened, above = os.open(folder, _FOLDER, dir_fd=opened), opened
            os.close(above)
        fd = os.open(parts[-1], _FILE, dir_fd=opened)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    except UnicodeEncodeError:
        return None
    finally:
        if opened >= 0:
            os.close(opened)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return None
    return fd, found


def read_beneath(root: Path | str, parts: Sequence[str], *, most: int) -> bytes | None:
    """Return the content of a small file below `root`; None where `open_beneath` finds none, or it is longer."""
    opened = open_beneath(root, parts)
    if opened is None:
        return None
    fd, found = opened
    try:
        return os.read(fd, most) if found.st_size <= most else None
    finally:
        os.close(fd)
