"""Files that were looked up a moment ago, still open: many clients ask for the same, or one for many parts of it.

Only what a commit names by its digits is kept: a branch may have moved. What is said of a file holds as long as its
state is what it was (`fstat`: the time of its last change, be it of bytes or of name, among others), and for a second
at most: so long our records may be old in any case, and so long a network's file system answers without asking.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from fetchverify.core.manifest import RemoteFile
from fetchverify.serve.records import Held, Verdict

_FRESH_S = 1.0
_MOST = 512  # open files

Key: TypeAlias = tuple[str, str, str, str]
"""Kind, repo, commit, path."""
Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Known:
    fd: int
    state: tuple[int, ...]
    until: float
    verdict: Verdict
    file: RemoteFile
    headers: Headers


class Recent:
    """What was looked up last. Thread-safe; never waits for the disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, _Known] = OrderedDict()

    def get(self, key: Key) -> tuple[RemoteFile, Headers, Held] | None:
        """Return a file and its headers, opened once more, to be closed by the caller; None: it must be looked up."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return None
            if time.monotonic() < known.until and _state(known.fd) == known.state:
                return known.file, known.headers, Held(fd=os.dup(known.fd), verdict=known.verdict)
            del self._known[key]
            os.close(known.fd)
            return None

    def add(self, key: Key, file: RemoteFile, headers: Headers, held: Held, since: float) -> None:
        """Keep a file, of which all was looked up after `since` (`time.monotonic`)."""
        fd = os.dup(held.fd)
        known = _Known(fd, _state(fd), since + _FRESH_S, held.verdict, file, headers)
        with self._lock:
            old = self._known.pop(key, None)
            if old is not None:
                os.close(old.fd)
            self._known[key] = known
            if len(self._known) > _MOST:
                os.close(self._known.popitem(last=False)[1].fd)

    def drop_old(self) -> bool:
        """Close what is not fresh any more: a file that was removed takes its place on disk until then.

        Returns:
            Whether anything is left.
        """
        now = time.monotonic()
        with self._lock:
            while self._known and (first := next(iter(self._known.values()))).until < now:
                self._known.popitem(last=False)
                os.close(first.fd)
            return bool(self._known)


def _state(fd: int) -> tuple[int, ...]:
    found = os.fstat(fd)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink
