"""Finds what others left of a download (the hub client, git-lfs, aria2, curl, wget); never writes or renames it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fetchverify.core.leftover import LONGEST_CONTROL, Leftover, Ranges, meet, parse_aria2
from fetchverify.core.manifest import RemoteFile


def of_the_hubs_client(folder: Path, file: RemoteFile) -> Iterator[Leftover]:
    """Yield the partials of the hub's client in a folder; only under its lock, else somebody is at work.

    Source: huggingface_hub 1.33.0 and 2.4.0 `file_download.py::_download_to_tmp_and_move`, `_local_folder.py`.
    """
    for place in _named(folder, file.digest.hex, ".incomplete"):
        yield from _prefix(place, file.size, "the hub's client")


def of_git_lfs(lfs: Path, file: RemoteFile) -> Iterator[Leftover]:
    """Yield the partials of git-lfs below `.git/lfs`."""
    for place in _named(lfs / "incomplete", file.digest.hex, ""):
        yield from _prefix(place, file.size, "git-lfs")


def of_a_downloader(place: Path, file: RemoteFile) -> Iterator[Leftover]:
    """Yield what curl, wget or aria2 left under the file's own name."""
    control = place.with_name(f"{place.name}.aria2")
    raw = _read(control)
    if raw is None:
        if not os.path.lexists(control):
            yield from _prefix(place, file.size, "another downloader")
        return
    told = parse_aria2(raw, file.size)
    written = _written(place, file.size)
    if told and written:
        yield Leftover(where=place, whose="aria2", ranges=meet(told, written), control=control)


def _prefix(place: Path, size: int, whose: str) -> Iterator[Leftover]:
    ranges = _written(place, size)
    if ranges:
        yield Leftover(where=place, whose=whose, ranges=ranges)


def _named(folder: Path, text: str, suffix: str) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if text in entry.name and entry.name.endswith(suffix))
    except OSError:
        return []


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(fd, "rb") as file:
        seen = os.fstat(fd)
        return file.read() if stat.S_ISREG(seen.st_mode) and seen.st_size <= LONGEST_CONTROL else None


def _written(path: Path, size: int) -> Ranges:
    """Return the parts of a file that hold data, holes left out; nothing of one that is longer than the promise."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ()
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or not 0 < seen.st_size <= size:
            return ()
        found, at = [], 0
        while at < seen.st_size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
                at = os.lseek(fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break  # nothing but a hole from here
                return ((0, seen.st_size),)  # this file system does not tell
            found.append((start, at))
        return tuple(found)
    finally:
        os.close(fd)
