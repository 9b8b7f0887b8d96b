"""The hub's cached tree listings (`trees/<commit>.json`): read strictly, written exactly as the hub writes them.

Without the full listing the hub's `local_files_only` takes part of a snapshot for the whole.
Source: huggingface_hub 1.33.0 and 2.4.0 `_tree_cache.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from pathlib import Path
from typing import Any

from fetchverify.core.manifest import Commit, Manifest, RemoteFile
from fetchverify.core.paths import check_files, check_path
from fetchverify.core.tree import is_commit, remote_file
from fetchverify.errors import UntrustedMetadataError
from fetchverify.store.disk import Disk

_FORMAT_VERSION = 1
_PIECE = 2000  # files written at once
_MOST_BYTES = 512 << 20  # a million files with long names; more is an attack on our memory
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_safe_path(path: str) -> bool:
    """Return True for a relative `/`-separated path that stays below its root on every platform."""
    parts = path.split("/")
    try:
        path.encode()
    except UnicodeEncodeError:  # a lone surrogate: no file system takes it
        return False
    return all(part not in {"", ".", ".."} for part in parts) and not re.search(r"[\x00-\x1f\\]|^[A-Za-z]:", path)


def tree_pieces(manifest: Manifest) -> Iterator[bytes]:
    """Yield the listing as the hub would write it, piece by piece: `json.dumps(..., indent=1)`."""
    text = f'{{\n "format_version": {_FORMAT_VERSION},\n "files": {{'
    files = sorted(manifest.files, key=attrgetter("path"))
    for start in range(0, len(files), _PIECE):
        yield text.encode()
        # By hand: `indent` costs `json.dumps` its speed, and all at once takes 30 MiB for 100,000 files.
        text = ("," if start else "") + ",".join(map(_entry, files[start : start + _PIECE]))
    yield (text + ("\n }\n}" if files else "}\n}")).encode()


def _entry(file: RemoteFile) -> str:
    # Digests were checked when they were read: there is nothing in them to escape.
    more = f',\n   "lfs_sha256": "{file.digest.hex}",\n   "lfs_size": {file.size}' if file.is_lfs else ""
    # One invalid Xet hash makes the hub distrust the whole listing.
    if file.xet_hash is not None and _SHA256.fullmatch(file.xet_hash):
        more += f',\n   "xet_hash": "{file.xet_hash}"'
    name = encode_basestring_ascii(file.path)
    return f'\n  {name}: {{\n   "size": {file.size},\n   "blob_id": "{file.blob_id}"{more}\n  }}'


def write_tree(disk: Disk, folder: Path, manifest: Manifest, *, staging: Path) -> None:
    """Store the listing under `<folder>/trees/`, unless the very same lies there."""
    path = folder / "trees" / f"{manifest.commit}.json"
    if not _lies_there(path, manifest):
        disk.make_dirs(path.parent)
        disk.write_file(path, tree_pieces(manifest), staging=staging)


def _lies_there(path: Path, manifest: Manifest) -> bool:
    try:
        with path.open("rb") as file:
            return all(file.read(len(piece)) == piece for piece in tree_pieces(manifest)) and not file.read(1)
    except OSError:
        return False


def read_tree(folder: Path, commit: str) -> tuple[RemoteFile, ...] | None:
    """Return the cached listing; None where it is absent, or anything in it is not what the hub would write."""
    if not is_commit(commit):
        return None
    path = folder / "trees" / f"{commit}.json"
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        body = json.loads(path.read_bytes())
        if body["format_version"] != _FORMAT_VERSION:
            return None
        files = tuple(_file(name, entry) for name, entry in body["files"].items())
        check_files(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UntrustedMetadataError):
        return None
    return files


def _file(name: str, entry: dict[str, Any]) -> RemoteFile:
    size, sha256 = entry["size"], entry.get("lfs_sha256")
    lfs = None if sha256 is None else {"oid": sha256, "size": entry.get("lfs_size", size)}
    return remote_file(check_path(name), entry["blob_id"], size, lfs, entry.get("xet_hash"))


def ref_parts(revision: str) -> tuple[str, ...] | None:
    """Return the revision as path components, or None where it could leave the refs folder."""
    return tuple(revision.split("/")) if revision and is_safe_path(revision) else None


def parse_commit(raw: bytes) -> Commit | None:
    """Return a ref's commit, or None where the file holds something else."""
    text = raw.decode("ascii", "replace").strip()
    return Commit(text) if is_commit(text) else None
