"""The hub's book-keeping in a plain folder (`.cache/huggingface`), written so that its client trusts our files.

Source: huggingface_hub 1.33.0 and 2.4.0 `_local_folder.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from fetchverify.core.manifest import RemoteFile
from fetchverify.store.area import CACHEDIR_TAG, Area, real_folders
from fetchverify.store.disk import Disk

HUB_FOLDER = (".cache", "huggingface")


def prepare(disk: Disk, area: Area, root: Path) -> Path:
    """Create the hub's folder with its tag and `.gitignore`, and return it."""
    folder = real_folders(disk, area, root, HUB_FOLDER)
    for name, text in (("CACHEDIR.TAG", CACHEDIR_TAG), (".gitignore", "*")):
        if not os.path.lexists(folder / name):
            disk.write_file(folder / name, text.encode(), staging=area.staging, durable=False)
    return folder


def _place(disk: Disk, area: Area, root: Path, file: RemoteFile) -> Path:
    *folders, name = file.path.split("/")
    return real_folders(disk, area, root, (*HUB_FOLDER, "download", *folders)) / name


def lock_path(disk: Disk, area: Area, root: Path, file: RemoteFile) -> Path:
    """Return the hub's lock file for this path."""
    place = _place(disk, area, root, file)
    return place.with_name(f"{place.name}.lock")


def forget(disk: Disk, area: Area, root: Path, file: RemoteFile) -> None:
    """Remove the metadata, durably, before the file changes: it must never speak of other bytes."""
    place = _place(disk, area, root, file)
    metadata = place.with_name(f"{place.name}.metadata")
    if os.path.lexists(metadata):
        disk.unlink(metadata, missing_ok=True)
        disk.fsync_dir(metadata.parent)


def trusted_etag(root: Path, file: RemoteFile, found: os.stat_result) -> str | None:
    """Return the digest that the hub's client believes the file to have, where it did not change since."""
    path = root.joinpath(*HUB_FOLDER, "download", *f"{file.path}.metadata".split("/"))
    try:
        _, etag, moment = path.read_text().splitlines()
        return etag if found.st_mtime - 1 <= float(moment) else None
    except (OSError, ValueError):
        return None


def remember(disk: Disk, area: Area, root: Path, file: RemoteFile, commit: str) -> None:
    """Write the metadata of a file whose name is durable: commit, ETag, and a time not before its mtime."""
    place = _place(disk, area, root, file)
    written = root.joinpath(*file.path.split("/")).stat().st_mtime  # may lie ahead of this clock on a network mount
    data = f"{commit}\n{file.digest.hex}\n{max(time.time(), written)}\n"
    disk.write_file(place.with_name(f"{place.name}.metadata"), data.encode(), staging=area.staging, durable=False)
