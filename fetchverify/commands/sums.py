"""Writes `SHA256SUMS` for files that were proved; those whose digest is git's are hashed once more for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from fetchverify import events
from fetchverify.core.facts import Promises
from fetchverify.core.findings import Rank, Verdict
from fetchverify.core.sums import format_sums
from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import disk_error


def write_sums(
    disk: Disk,
    folder: Path,
    promises: Promises,
    verdict: Verdict,
    out: Path,
    wanted: Callable[[str], bool],
    emit: events.Emit,
) -> str | None:
    """Write the sums of a folder's proved files, by paths below it; return where, or None where some are not proved.

    Sums that leave out what is bad would make `sha256sum -c` content with a broken folder.

    Raises:
        DiskError: a file cannot be read, or the sums cannot be written.
    """
    bad = len(verdict.of_rank(Rank.DAMAGE)) + len(verdict.of_rank(Rank.UNPROVED))
    if bad:
        emit(events.Note(level="warning", message=f"`{out}` was not written: not every file is proved"))
        return None
    sums = []
    for path in sorted(promises):
        if not wanted(path):
            continue
        digest = promises[path].digest
        if digest.algo == "sha256":
            sums.append((path, digest.hex))
            continue
        try:
            with (folder / path).open("rb") as file:
                sums.append((path, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            raise disk_error(error, "read", folder / path) from error
    disk.write_file(out.absolute(), format_sums(sums))
    return str(out)


__all__ = ["DiskError", "write_sums"]
