"""After a work tree was filled: contents reach git-lfs's store without a second write, git's index learns of them."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from fetchverify.core.gitindex import ForeignIndexError, StatData, with_stats
from fetchverify.core.manifest import Digest, RemoteFile
from fetchverify.errors import DiskError
from fetchverify.store.clone import Clone, Entry
from fetchverify.store.disk import Disk, temporary_name
from fetchverify.store.indexlock import release_dead, replace_index
from fetchverify.store.proofs import Proofs

# `reflink`: where the file system can, else not at all.
StoreMode: TypeAlias = Literal["none", "reflink", "link", "copy"]

_STEP_S = 0.05
# A clock that lags behind its file server's by more is not worth waiting for.
_MOST_RACE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How contents came into git-lfs's store; counts of files.

    Attributes:
        there: they were in it before.
        left_out: the file system has no reflinks, and nothing else was asked for.
    """

    there: int = 0
    reflinked: int = 0
    linked: int = 0
    copied: int = 0
    left_out: int = 0


class LfsStore:
    """git-lfs's store of one clone, `.git/lfs/objects`."""

    def __init__(self, disk: Disk, objects: Path, proofs: Proofs) -> None:
        self._disk = disk
        self._objects = objects
        self._proofs = proofs

    def place(self, digest: Digest) -> Path:
        """Return where git-lfs keeps a content."""
        return self._objects / digest.hex[:2] / digest.hex[2:4] / digest.hex

    def take(self, files: Iterable[tuple[RemoteFile, Path]], mode: StoreMode) -> Stored:
        """Put proved files of the work tree into the store, each content once.

        Raises:
            DiskError: the store cannot be written to.
        """
        how = {"there": 0, "reflinked": 0, "linked": 0, "copied": 0, "left_out": 0}
        if mode == "none":
            return Stored()
        for file, path in {file.digest: (file, path) for file, path in files}.values():
            place = self.place(file.digest)
            if _is_file(place, file.size):
                how["there"] += 1
                continue
            # Reflinks exist or they do not: once it is known, trying costs a file each time.
            if mode == "reflink" and how["left_out"]:
                how["left_out"] += 1
                continue
            how[self._take(file, path, place, mode)] += 1
        return Stored(**how)

    def _take(self, file: RemoteFile, path: Path, place: Path, mode: StoreMode) -> str:
        self._disk.make_dirs(place.parent)
        self._disk.make_dirs(self._objects.parent / "tmp")
        temporary = temporary_name(self._objects.parent / "tmp")
        before = path.lstat()
        try:
            made = self._make(path, temporary, mode)
            # An edit between the proof and now would give the store other bytes under this name.
            if made != "left_out" and self._proofs.knows(file.digest, before) and _same(before, path.lstat()):
                self._disk.rename(temporary, place)
                self._disk.fsync_dir(place.parent)
                self._proofs.add(file.digest, place.lstat())
                return made
        finally:
            self._disk.unlink(temporary, missing_ok=True)
        return "left_out"

    def _make(self, path: Path, temporary: Path, mode: StoreMode) -> str:
        if mode == "link":
            self._disk.link(path, temporary)
            return "linked"
        if mode == "copy":
            return "reflinked" if self._disk.clone_or_copy(path, temporary) == "reflink" else "copied"
        fd = self._disk.create(temporary)
        try:
            with path.open("rb") as source:
                if not self._disk.clone_into(source.fileno(), fd):
                    return "left_out"
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)
        return "reflinked"


def refresh_index(disk: Disk, clone: Clone, files: Mapping[RemoteFile, Entry], proofs: Proofs) -> bool:
    """Tell git's index that these files, proved and in place, are what it holds; returns whether it had to change.

    Raises:
        ForeignIndexError: only git itself can write this index; it is as it was.
        LockedError: another git command holds it.
    """
    stats: dict[bytes, tuple[str, StatData]] = {}
    for file, entry in files.items():
        try:
            found = (clone.root / file.path).lstat()
        except OSError:
            continue
        if proofs.knows(file.digest, found):
            stats[entry.path] = (entry.blob_id, _stat_data(found))
    release_dead(disk, clone.index)
    while True:
        try:
            before, index = clone.index.stat(), clone.index.read_bytes()
        except OSError as error:
            raise DiskError(f"cannot read `{clone.index}`: {error.strerror}") from error
        racy_from = before.st_mtime_ns // 1_000_000_000
        patched = with_stats(index, stats, racy_from_s=racy_from, id_bytes=clone.id_bytes)
        if patched == index:
            return False
        newest = max(data.mtime_ns for _, data in stats.values()) // 1_000_000_000
        if replace_index(disk, clone.index, before, partial(_write_after, disk, data=patched, newest_s=newest)):
            return True
        # git was faster: what it wrote is what has to be patched


def _write_after(disk: Disk, fd: int, data: bytes, newest_s: int) -> None:
    """Write a file whose time is later than `newest_s`, in whole seconds.

    Files as young as the index are "racily clean" to git, which looks into them again: that is the clean filter,
    and a copy in the store (git `Documentation/technical/racy-git.txt`). Measured by the clock of the disk.
    """
    until = time.monotonic() + _MOST_RACE_S
    while True:
        disk.write_at(fd, data, 0)
        if os.fstat(fd).st_mtime_ns // 1_000_000_000 > newest_s or time.monotonic() > until:
            return
        time.sleep(_STEP_S)


def _stat_data(found: os.stat_result) -> StatData:
    return StatData(
        ctime_ns=found.st_ctime_ns,
        mtime_ns=found.st_mtime_ns,
        device=found.st_dev,
        inode=found.st_ino,
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size,
    )


def _is_file(path: Path, size: int) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (other.st_ino, other.st_size, other.st_mtime_ns)


__all__ = ["ForeignIndexError", "LfsStore", "StoreMode", "Stored", "refresh_index"]
