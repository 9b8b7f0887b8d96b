"""Our own folder beside a target: temporary files, permissions, directories to sync, and the ledger."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Literal

from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk, temporary_name
from fetchverify.store.diskerrors import disk_error
from fetchverify.store.partialdirs import sweep
from fetchverify.store.proofs import Proofs

AREA_NAME = ".fetchverify"
STAGING = "tmp"
ORPHAN_S = 24 * 3600  # a temporary file lives for seconds; a day says that its process died

# Source: huggingface_hub 2.4.0 `_local_folder.py`; written before the hub does, it must read the same.
CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n"
)


class Area:
    """One `.fetchverify` folder, on the same file system as the target, so that publishing is a rename. Thread-safe."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self.disk = disk
        self.path = path
        self.staging = path / STAGING
        self._lock = threading.Lock()
        self._dirty: set[str] = set()
        self._mode: int | None = None
        self._proofs: Proofs | None = None

    def prepare(self) -> None:
        """Create the folder, and remove what the dead left: temporary files, and partials of what was published."""
        self.disk.make_dirs(self.staging)
        oldest = time.time() - ORPHAN_S
        with os.scandir(self.staging) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                # Another user's are left to that user: in a folder with the sticky bit nobody else may remove them.
                if stat.S_ISREG(found.st_mode) and found.st_mtime < oldest and found.st_uid == os.geteuid():
                    self.disk.unlink(entry.path, missing_ok=True)
        sweep(self.disk, self.path)

    @property
    def proofs(self) -> Proofs:
        """The area's ledger, read at first use."""
        with self._lock:
            if self._proofs is None:
                self._proofs = Proofs.load(self.disk, self.path)
            return self._proofs

    def temporary(self) -> Path:
        """Return a fresh name in the staging folder, which exists then."""
        if not self.staging.is_dir():
            self.disk.make_dirs(self.staging)
        return temporary_name(self.staging)

    def stage(self, data: bytes, *, sync: bool = True) -> Path:
        """Put bytes into a temporary file and return it."""
        path = self.temporary()
        fd = self.disk.create(path)
        try:
            self.disk.write_at(fd, data, 0)
            if sync:
                self.disk.fsync(fd)
        finally:
            self.disk.close(fd)
        return path

    def stage_many(self, contents: list[bytes]) -> list[Path]:
        """Put each content into a temporary file; all are durable when this returns."""
        staged = [self.stage(data, sync=False) for data in contents]
        # After all were written: the first sync's journal commit then carries the others, too.
        for path in staged:
            self.disk.fsync_path(path)
        return staged

    def copy(self, source: Path, size: int) -> tuple[Path, Literal["reflink", "copy"]]:
        """Copy a file into the staging folder, durably; returns where it lies and how that was done.

        Raises:
            DiskError: it is not `size` bytes long, or changed meanwhile: what was proved of it is void.
        """
        copied = self.temporary()
        try:
            before = source.stat()
            how = self.disk.clone_or_copy(source, copied)
            after = source.stat()
        except OSError as error:
            raise disk_error(error, "read", source) from error
        same = (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
        if not same or copied.stat().st_size != size:
            self.disk.unlink(copied)
            raise DiskError(f"`{source}` changed while it was copied", hint="run the same command again")
        return copied, how

    def give_mode(self, path: Path) -> None:
        """Give a file the permissions that a new file has here.

        The hub's client asks a new file, too: there is no thread-safe way to read the umask, and a default ACL
        may differ from it (huggingface_hub 2.4.0 `file_download.py::_chmod_and_move`).
        """
        with self._lock:
            if self._mode is None:
                probe = temporary_name(self.staging)
                self.disk.make_dirs(self.staging)
                self.disk.close(self.disk.create(probe))
                self._mode = stat.S_IMODE(probe.stat().st_mode)
                self.disk.unlink(probe)
        if stat.S_IMODE(path.lstat().st_mode) != self._mode:
            self.disk.set_mode(path, self._mode)

    def make_dirs(self, path: Path) -> None:
        """Create the folder and its parents where they are absent; their names wait for `sync_folders`."""
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        self.disk.make_dirs(path)
        for folder in new:
            self.soil(folder.parent)

    def soil(self, folder: Path) -> None:
        """Note that the folder's entries changed and wait for `sync_folders`."""
        with self._lock:
            self._dirty.add(str(folder))

    def sync_folders(self) -> None:
        """Make all noted changes of entries survive a power cut."""
        with self._lock:
            dirty, self._dirty = sorted(self._dirty), set()
        for number, folder in enumerate(dirty):
            try:
                self.disk.fsync_dir(folder)
            except DiskError:
                with self._lock:
                    self._dirty.update(dirty[number:])
                raise


def real_folders(disk: Disk, area: Area, root: Path, parts: tuple[str, ...]) -> Path:
    """Create the folders `parts` below `root` and return the last; a symlink on the way is refused.

    A planted link must never let us write outside the target.

    Raises:
        DiskError: a component is a symlink or a file.
    """
    here = root
    for part in parts:
        here = here / part
        try:
            mode = os.lstat(here).st_mode
        except FileNotFoundError:
            if disk.make_dir(here):
                area.soil(here.parent)
                continue
            mode = os.lstat(here).st_mode  # another thread or process was faster: what did it make?
        if not stat.S_ISDIR(mode):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
            raise DiskError(
                f"`{here}` is {what} where a folder belongs; nothing was written through it",
                hint=f"remove or rename `{here}` and run the same command again",
            )
    return here
