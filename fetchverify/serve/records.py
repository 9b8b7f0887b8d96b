"""What our ledgers say of bytes that lie in a mirror: read again when they change, never written.

The ledger may say nothing: the hub's client wrote the file, or the mirror was copied, which gives every file another
inode. Silence is no verdict; what a client gets it can prove by itself, for the digests are the Hub's.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fetchverify.core.manifest import Digest, RemoteFile
from fetchverify.store.disk import Disk
from fetchverify.store.proofs import Proofs, Stat

Verdict: TypeAlias = Literal["proved", "unknown", "changed"]

Why: TypeAlias = Literal["absent", "size", "changed", "unproved"]

# A ledger that grows while a repo is fetched is not read again for each request.
_FRESH_S = 1.0
_MOST_LEDGERS = 64  # in memory; a repo of a million files has the largest, of some 200 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A file that may be served.

    Attributes:
        fd: open for reading; whoever got it closes it.
        verdict: what our records say of its bytes.
    """

    fd: int
    verdict: Verdict


class Records:
    """The ledgers of a mirror, by the folder that holds each. Thread-safe."""

    def __init__(self) -> None:
        self._disk = Disk()
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, tuple[tuple[int, int, int], float, Proofs]] = OrderedDict()

    def verdict(self, area: str, digest: Digest, seen: Stat) -> Verdict:
        """Return what the ledger in the folder `area` says of a file whose state is `seen`."""
        proofs = self._ledger(area)
        if proofs is None:
            return "unknown"
        if proofs.knows(digest, seen):
            return "proved"
        return "changed" if proofs.disowns(digest, seen) else "unknown"

    def _ledger(self, area: str) -> Proofs | None:
        try:
            found = Path(area, "proofs").stat()
        except OSError:
            return None
        now = time.monotonic()
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            known = self._loaded.get(area)
            if known is not None and (known[0] == state or now - known[1] < _FRESH_S):
                self._loaded.move_to_end(area)
                return known[2]
        # Outside of the lock: a long ledger must not hold up every other repo.
        proofs = Proofs.load(self._disk, Path(area), compact=False)
        with self._lock:
            self._loaded[area] = (state, now, proofs)
            self._loaded.move_to_end(area)
            while len(self._loaded) > _MOST_LEDGERS:
                self._loaded.popitem(last=False)
        return proofs


def judged(
    records: Records, areas: Iterable[str], file: RemoteFile, fd: int, found: os.stat_result, *, only_proved: bool
) -> Held | Why:
    """Return an open file as one that may be served, or close it and say why not.

    Args:
        records: the ledgers.
        areas: folders that may hold one which knows the file.
        file: what is promised.
        fd: the open file.
        found: its state.
        only_proved: silence of the ledgers is reason enough.
    """
    verdicts = [records.verdict(area, file.digest, found) for area in areas]
    verdict: Verdict = "proved" if "proved" in verdicts else "changed" if "changed" in verdicts else "unknown"
    why: Why
    if found.st_size != file.size:
        why = "size"
    elif verdict == "changed":
        why = "changed"
    elif verdict == "unknown" and only_proved:
        why = "unproved"
    else:
        return Held(fd=fd, verdict=verdict)
    os.close(fd)
    return why
