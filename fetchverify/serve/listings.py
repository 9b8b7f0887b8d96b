"""Keeps listings of commits in memory, up to a number of files: a listing is read once, not once a request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from fetchverify.core.manifest import Commit, RemoteFile
from fetchverify.serve.mirror import Listing

# About 400 bytes each: a quarter of a GB.
_MOST_FILES = 600_000


class Listings:
    """The listings that were read last. Thread-safe."""

    def __init__(self, most_files: int = _MOST_FILES) -> None:
        self._most = most_files
        self._cost = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[tuple[int, int, int], Listing]] = OrderedDict()

    def get(self, path: str, commit: Commit, read: Callable[[], tuple[RemoteFile, ...] | None]) -> Listing | None:
        """Return the listing in the file `path`, by `read` unless it is known and the file is the same."""
        try:
            found = Path(path).stat()
        except OSError:
            return None
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            known = self._known.get(path)
            if known is not None and known[0] == state:
                self._known.move_to_end(path)
                return known[1]
        files = read()
        if files is None:
            return None
        listing = Listing(commit=commit, files={file.path: file for file in files})
        with self._lock:
            if (old := self._known.pop(path, None)) is not None:
                self._cost -= old[1].cost
            self._known[path] = (state, listing)
            self._cost += listing.cost
            while self._cost > self._most and len(self._known) > 1:
                _, (_, dropped) = self._known.popitem(last=False)
                self._cost -= dropped.cost
        return listing
