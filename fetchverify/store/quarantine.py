"""Keeps bad bytes with a note of what was promised and what came; emptied only by command, and never fills the disk."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk

GiB = 1 << 30
# Room for a few shards as evidence; a lying server behind a cron job must not fill the disk.
TOTAL_CAP = 16 * GiB
_NOTES_A_DIGEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCopy:
    """What is known of one bad copy.

    Attributes:
        promised: the digest that the bytes should have had.
        came: the hex digest that they have, where it was computed.
        host: the endpoint's host, where they came over the network.
        when: Unix time.
        blocks: indexes of the blocks that are known to differ.
    """

    promised: Digest
    path: str
    repo_id: str
    commit: str
    reason: str
    when: float
    came: str | None = None
    host: str | None = None
    blocks: tuple[int, ...] = ()


class Quarantine:
    """The quarantine of one area. Thread-safe."""

    def __init__(self, disk: Disk, area: Path, *, total_cap: int = TOTAL_CAP) -> None:
        self._disk = disk
        self._folder = area / "quarantine"
        self._total_cap = total_cap
        self._lock = threading.Lock()

    def take_path(self, path: Path, bad: BadCopy) -> Path | None:
        """Move a file here and note why; returns where it lies, or None where only the note was kept.

        The name is gone afterwards in either case.
        """
        with self._lock:
            place = self._place(bad.promised, path.lstat().st_size if os.path.lexists(path) else 0)
            if place is None or not os.path.lexists(path):
                self._disk.unlink(path, missing_ok=True)
                place = None
            else:
                self._move(path, place)
            self._note(bad, kept=place is not None)
        return place

    def take_bytes(self, data: bytes, bad: BadCopy) -> Path | None:
        """Keep bytes that never had a name and note why; returns where they lie, or None as `take_path` does."""
        with self._lock:
            place = self._place(bad.promised, len(data))
            if place is not None:
                self._disk.write_file(place, data, mode=0o600)
            self._note(bad, kept=place is not None)
        return place

    def _place(self, digest: Digest, size: int) -> Path | None:
        """Return where a copy of this size may go; None where one of its digest, or enough in all, lies here."""
        self._disk.make_dirs(self._folder)
        place = self._folder / digest.key
        full = sum(entry.stat().st_size for entry in self._copies()) + size > self._total_cap
        return None if full or os.path.lexists(place) else place

    def _move(self, path: Path, place: Path) -> None:
        try:
            self._disk.rename(path, place)
        except DiskError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EXDEV:
                raise
            self._disk.clone_or_copy(path, place)  # a folder of the target is a mount of its own
            self._disk.unlink(path)
        self._disk.set_mode(place, 0o600)  # nobody takes it for a model by accident
        self._disk.fsync_dir(self._folder)

    def _note(self, bad: BadCopy, *, kept: bool) -> None:
        notes = self.notes(bad.promised)
        notes.append({**asdict(bad), "kept": kept})
        body = {"times": self._times(bad.promised) + 1, "notes": notes[-_NOTES_A_DIGEST:]}
        self._disk.write_file(self._note_path(bad.promised), json.dumps(body, indent=1).encode() + b"\n")

    def _note_path(self, digest: Digest) -> Path:
        return self._folder / f"{digest.key}.json"

    def _read(self, digest: Digest) -> dict[str, Any]:
        try:
            body = json.loads(self._note_path(digest).read_bytes())
        except (OSError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    def _times(self, digest: Digest) -> int:
        times = self._read(digest).get("times")
        return times if isinstance(times, int) else 0

    def notes(self, digest: Digest) -> list[dict[str, Any]]:
        """Return the latest notes on this digest, oldest first."""
        notes = self._read(digest).get("notes")
        return [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []

    def _copies(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._folder) as entries:
                return [e for e in entries if e.name[0] != "." and not e.name.endswith(".json")]
        except OSError:
            return []

    def count(self) -> int:
        """Return how many bad copies lie here."""
        return len(self._copies())

    def size(self) -> int:
        """Return their bytes."""
        return sum(entry.stat(follow_symlinks=False).st_size for entry in self._copies())

    def empty(self) -> int:
        """Remove all copies and notes; returns how many copies there were."""
        with self._lock:
            copies = self.count()
            self._disk.remove_tree(self._folder)
            return copies
