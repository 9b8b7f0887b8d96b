"""Digests that lie beside a file, offline: its blob's name in the cache, the hub's book-keeping in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from fetchverify.core.manifest import Digest
from fetchverify.store.localdir import HUB_FOLDER

_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_BYTES = 4096


def promised_digest(root: Path, path: Path, name: str) -> Digest | None:
    """Return what is on record for the file `name` below `root`; None where nothing is."""
    return _of_blob(path) or _of_folder(root, path, name)


def _of_blob(path: Path) -> Digest | None:
    """In the cache a file is a link to a blob, whose name is its sha256, or its git object id."""
    try:
        target = path.readlink()
    except OSError:
        return None
    return _digest(target.name) if target.parent.name == "blobs" else None


def _of_folder(root: Path, path: Path, name: str) -> Digest | None:
    """In a plain folder the hub's client notes commit, ETag and time; a later change of the file is the user's own."""
    if root == path:
        root, name = path.parent, path.name
    note = root.joinpath(*HUB_FOLDER, "download", *f"{name}.metadata".split("/"))
    try:
        with open(note, encoding="utf-8") as file:
            _, etag, moment, *_ = file.read(_MOST_BYTES).splitlines()
        return _digest(etag.strip('"')) if path.stat().st_mtime - 1 <= float(moment) else None
    except (OSError, ValueError):
        return None


def _digest(text: str) -> Digest | None:
    if not _HEX.fullmatch(text):
        return None
    return Digest(algo="sha256" if len(text) == 64 else "git-sha1", hex=text)
