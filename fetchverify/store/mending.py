"""Small repairs in a cache that are no download: removing, permitting, setting aside, seeding a partial.

Everything is named by its path below the repo's folder, as `core.findings` names it; a symlink on the way is refused.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fetchverify.core.blocks import BlockMap
from fetchverify.core.facts import State
from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError
from fetchverify.store.area import STAGING, Area
from fetchverify.store.disk import Disk
from fetchverify.store.partial import Partial
from fetchverify.store.quarantine import BadCopy, Quarantine
from fetchverify.store.sharedblobs import payload_mode

_MARKER = ".huggingface-shared-blobs"


class Mender:
    """The repairs of one repo's folder; methods block."""

    def __init__(self, disk: Disk, root: Path, area: Path, repo_id: str) -> None:
        self._disk = disk
        self._root = root
        self._area = area
        self._repo_id = repo_id
        self.quarantine = Quarantine(disk, area)

    def place(self, key: str) -> Path:
        """Return the absolute path of a key.

        Raises:
            DiskError: a folder on the way is a symlink, or the key leads out of the cache.
        """
        place = Path(os.path.normpath(self._root / key))
        if self._root.parent not in place.parents:
            raise DiskError(f"`{key}` leads out of the cache")
        here = self._root.parent
        for part in place.relative_to(here).parts[:-1]:
            here = here / part
            if here != self._root and here.is_symlink():
                raise DiskError(f"`{here}` is a symbolic link where a folder belongs", hint="remove it yourself")
        return place

    def is_still(self, key: str, seen: State) -> bool:
        """Return whether a name has the bytes that it had when it was looked at: hours may lie between."""
        try:
            now = self.place(key).lstat()
        except FileNotFoundError:
            return False
        return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == (
            seen.st_dev,
            seen.st_ino,
            seen.st_size,
            seen.st_mtime_ns,
        )

    def remove(self, key: str) -> int:
        """Remove a file, a link, or a folder of ours with all it holds; return the bytes that it had."""
        place = self.place(key)
        try:
            seen = place.lstat()
        except FileNotFoundError:
            return 0
        if stat.S_ISDIR(seen.st_mode):
            size = _bytes_below(place)
            self._disk.remove_tree(place)
        else:
            size = seen.st_size if stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 else 0
            self._disk.unlink(place, missing_ok=True)
        self._disk.fsync_dir(place.parent)
        return size

    def remove_at_once(self, key: str) -> int:
        """Remove a folder so that nobody sees a part of it; return the bytes of which no name is left."""
        place = self.place(key)
        gone = self._area / STAGING / f"gone-{secrets.token_hex(8)}"
        self._disk.make_dirs(gone.parent)
        try:
            self._disk.rename(place, gone)
        except DiskError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return 0
            raise
        self._disk.fsync_dir(place.parent)
        freed = _bytes_below(gone)
        self._disk.remove_tree(gone)
        return freed

    def remove_empty(self, key: str) -> bool:
        """Remove a folder in which there is no file; return whether nothing is left."""
        place = self.place(key)
        for folder, _, files in os.walk(place, topdown=False):
            if files:
                return False
            try:
                self._disk.remove_dir(Path(folder))
            except DiskError:
                return False
        return not os.path.lexists(place)

    def clear(self, key: str) -> None:
        """Take away what is no file where a file belongs: empty folders, pipes, sockets; others are set aside."""
        place = self.place(key)
        try:
            mode = place.lstat().st_mode
        except OSError:
            return
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            return
        if not stat.S_ISDIR(mode):
            self._disk.unlink(place, missing_ok=True)
        elif not self.remove_empty(key):
            self._move_aside(place, "folder")
        self._disk.fsync_dir(place.parent)

    def clear_the_way(self, key: str) -> None:
        """Move what is no folder from where a folder belongs; a link goes, a file is somebody's and kept."""
        place = self.place(key)
        if stat.S_ISREG(place.lstat().st_mode):
            self._move_aside(place, "file")
        else:
            self._disk.unlink(place, missing_ok=True)
        self._disk.fsync_dir(place.parent)

    def _move_aside(self, place: Path, what: str) -> None:
        aside = self._area / "quarantine" / f"{what}-{place.name}-{time.time_ns()}"
        self._disk.make_dirs(aside.parent)
        self._disk.rename(place, aside)

    def permit(self, key: str) -> None:
        """Give the permissions that the hub's client gives; a blob that is a link stands for its payload."""
        for folder in [self._root, *(self._root / part for part in reversed(Path(key).parents) if part.parts)]:
            self._open_folder(folder)
        link = self.place(key)
        place = Path(os.path.realpath(link))
        mode = stat.S_IMODE(place.stat().st_mode)
        if place.is_dir():
            self._open_folder(place)
        elif place.parent.parent == self._root.parent / "blobs":
            self._disk.set_mode(place, payload_mode(self._root.parent))
        elif not mode & stat.S_IRUSR:
            Area(self._disk, self._area).give_mode(place)

    def _open_folder(self, folder: Path) -> None:
        """Let a folder's owner do all, and others what they may do around it."""
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and stat.S_IRWXU & ~found.st_mode:
            around = stat.S_IMODE(folder.parent.stat().st_mode) & 0o777
            self._disk.set_mode(folder, stat.S_IMODE(found.st_mode) | around | stat.S_IRWXU)

    def close(self, key: str) -> None:
        """Take the permission to write from a shared payload."""
        place = self.place(key)
        self._disk.set_mode(place, stat.S_IMODE(place.lstat().st_mode) & ~0o222)

    def set_aside(self, key: str, digest: Digest | None, reason: str) -> int:
        """Move bad bytes to quarantine; return the bytes that their name held."""
        place = self.place(key)
        try:
            seen = place.lstat()
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(seen.st_mode):
            self.clear(key)
            return 0
        promised = digest or Digest(algo="sha256", hex="0" * 64)
        note = BadCopy(promised=promised, path=key, repo_id=self._repo_id, commit="", reason=reason, when=time.time())
        self.quarantine.take_path(place, note)
        return seen.st_size

    def mark_store(self, cache_dir: Path) -> None:
        """Write the shared store's marker.

        Source: huggingface_hub 2.4.0 `utils/_shared_blobs.py::_ensure_shared_blobs_dir`.
        """
        self._disk.write_file(cache_dir / "blobs" / _MARKER, b"1\n")


def _bytes_below(folder: Path) -> int:
    """Return the bytes that are free when a folder goes: those of which no name lies elsewhere."""
    names: Counter[tuple[int, int]] = Counter()
    size = 0
    for where, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):  # somebody removed it meanwhile
                seen = os.lstat(f"{where}/{file}")
                if stat.S_ISREG(seen.st_mode):
                    names[seen.st_dev, seen.st_ino] += 1
                    size += seen.st_size if names[seen.st_dev, seen.st_ino] == seen.st_nlink else 0
    return size


def seed_partial(disk: Disk, area: Path, blob: Path, digest: Digest, block_map: BlockMap, bad: Iterable[int]) -> int:
    """Begin a download with the good blocks of a damaged blob; return their bytes.

    A reflink where the file system can: then it costs nothing. What is taken over is proved again with the whole
    file, and each block by its checksum before.
    """
    wrong = set(bad)
    partial = Partial.open(disk, area, digest, block_map.tiling.size)
    try:
        wanted = {index: found for index, found in block_map.hashes.items() if index not in wrong}
        return partial.take_over(blob, wanted)
    finally:
        partial.close(sync=False)  # the download that follows syncs it, while it is hashed
