"""Snapshot links to blobs: making one, finding all of one blob, cutting them off a bad blob and restoring them after.

Cut links are remembered in `<area>/relink/<digest key>` before the first one goes, so that a repair, even one that
was interrupted, gives every snapshot its file back.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError
from fetchverify.store import trees
from fetchverify.store.area import Area, real_folders
from fetchverify.store.disk import Disk

# What file systems without symbolic links answer: FAT EPERM, SMB EOPNOTSUPP or EACCES, exFAT through FUSE ENOSYS.
_NO_SYMLINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def link_to_blob(disk: Disk, area: Area, pointer: Path, blob: Path, *, depth: int) -> None:
    """Make `pointer` lead to the blob: by a relative symlink as the hub's, else a hardlink, else a copy.

    Args:
        disk: the door.
        area: where temporary names are made.
        pointer: the path in a snapshot; its folder exists.
        blob: durable already.
        depth: how many folders lie between the repo's folder and the pointer.
    """
    text = "../" * depth + "blobs/" + blob.name
    try:
        if str(pointer.readlink()) == text:
            return
    except OSError:
        pass
    area.soil(pointer.parent)
    from huggingface_hub import constants

    if not constants.HF_HUB_DISABLE_SYMLINKS:
        try:
            disk.symlink(text, pointer, staging=area.staging)
            return
        except DiskError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NO_SYMLINKS:
                raise
    temporary = area.temporary()
    try:
        disk.link(os.path.realpath(blob), temporary)
    except DiskError:
        disk.clone_or_copy(blob, temporary)
    disk.rename(temporary, pointer)


def leads_to(pointer: Path | str, blob: Path | str) -> bool:
    """Return True where the pointer is a symlink whose text names the blob; called for every file of a snapshot."""
    try:
        text = os.readlink(pointer)  # noqa: PTH115
    except OSError:
        return False
    folder = os.fspath(pointer).rpartition("/")[0]
    return os.path.normpath(text if text.startswith("/") else f"{folder}/{text}") == os.fspath(blob)


def _names_of(root: Path, blob: Path) -> Iterator[str]:
    """Yield every snapshot path (below `snapshots/`) that is the blob, by symlink or as the same inode."""
    try:
        inode: os.stat_result | None = blob.stat()
    except OSError:
        inode = None
    for folder, _, files in os.walk(root / "snapshots"):
        for name in files:
            path = f"{folder}/{name}"
            found = os.lstat(path)
            same = inode is not None and stat.S_ISREG(found.st_mode) and os.path.samestat(found, inode)
            if same or (stat.S_ISLNK(found.st_mode) and leads_to(path, blob)):
                yield os.path.relpath(path, root / "snapshots")


def _record(area: Area, digest: Digest) -> Path:
    return area.path / "relink" / digest.key


def _remembered(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    return [n for n in names if isinstance(n, str) and trees.is_safe_path(n)] if isinstance(names, list) else []


def cut(disk: Disk, area: Area, root: Path, digest: Digest) -> None:
    """Remove every link to the blob, durably, after remembering them."""
    names = sorted({*_names_of(root, root / "blobs" / digest.hex), *_remembered(_record(area, digest))})
    disk.make_dirs(_record(area, digest).parent)
    disk.write_file(_record(area, digest), json.dumps(names).encode(), staging=area.staging)
    for name in names:
        disk.unlink(root / "snapshots" / name, missing_ok=True)
        area.soil((root / "snapshots" / name).parent)
    area.sync_folders()


def restore(disk: Disk, area: Area, root: Path, digest: Digest) -> None:
    """Link every remembered name to the blob, which is good and durable, and forget them."""
    record = _record(area, digest)
    names = _remembered(record)
    if not names and not record.exists():
        return
    for name in names:
        parts = name.split("/")
        if not (root / "snapshots" / parts[0]).is_dir():
            continue  # the snapshot was removed meanwhile
        if not os.path.lexists(root / "snapshots" / name):
            parent = real_folders(disk, area, root, ("snapshots", *parts[:-1]))
            link_to_blob(disk, area, parent / parts[-1], root / "blobs" / digest.hex, depth=len(parts))
    area.sync_folders()
    disk.unlink(record, missing_ok=True)


def mend(disk: Disk, area: Area, root: Path) -> None:
    """Restore the links of repairs that were interrupted after the good blob had come."""
    try:
        keys = [entry.name for entry in (area.path / "relink").iterdir()]
    except OSError:
        return
    for key in keys:
        algo, _, value = key.rpartition("-")
        digest = Digest(algo="sha256" if algo == "sha256" else "git-sha1", hex=value)
        blob = root / "blobs" / value
        try:
            seen = blob.stat()
        except OSError:
            continue
        if area.proofs.knows(digest, seen):
            restore(disk, area, root, digest)
