"""The hub's shared blob store: one payload for all repos, found and linked to; written by the hub's own functions."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from fetchverify.core.manifest import RemoteFile
from fetchverify.core.plan import Copy
from fetchverify.store.disk import Disk
from fetchverify.store.hublock import hub_lock
from fetchverify.store.proofs import Proofs

_XET_HASH = re.compile(r"[0-9a-f]{64}")
_USER = re.compile(rb"(?:model|dataset|space)s--[!-.0-~]+/blobs/[0-9a-f]+")  # as the hub writes it
_PATIENCE_S = 10.0  # the hub's `_SOFT_LOCK_TIMEOUT`


def _store_path(cache_dir: Path, file: RemoteFile) -> str | None:
    if file.xet_hash is None or _XET_HASH.fullmatch(file.xet_hash) is None:
        return None
    return f"{cache_dir}/blobs/{file.xet_hash[:2]}/{file.xet_hash}"


def is_there(cache_dir: Path) -> bool:
    """Return whether the cache has a shared store at all."""
    return os.path.lexists(f"{cache_dir}/blobs")


def find(cache_dir: Path, file: RemoteFile, proofs: Proofs) -> Copy | None:
    """Return the payload under the file's Xet hash, or None where there is none."""
    path = _store_path(cache_dir, file)
    if path is None:
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Copy(where=path, size=found.st_size, proved=proofs.knows(file.digest, found))


def link(cache_dir: Path, blob: Path, file: RemoteFile, source: Copy) -> bool:
    """Make the repo's blob a link to a proved payload of the store; False where that is not how the hub does it.

    The hub's own function does it: it appends to the payload's `.refs` under the payload's lock, so that its
    garbage collection sees us. Where it is missing or says no, the caller copies.
    """
    if source.where != _store_path(cache_dir, file) or file.xet_hash is None:
        return False
    try:
        from huggingface_hub import constants
        from huggingface_hub.file_download import are_symlinks_supported
        from huggingface_hub.utils._shared_blobs import shared_blobs_enabled, try_link_from_shared_store
    except ImportError:
        return False
    if constants.HF_HUB_DISABLE_SYMLINKS or not shared_blobs_enabled() or not are_symlinks_supported(cache_dir):
        return False
    return try_link_from_shared_store(
        blob_path=str(blob), xet_hash=file.xet_hash, cache_dir=cache_dir, expected_size=file.size
    )


def payload_mode(cache_dir: Path) -> int:
    """Return the permissions of a payload: nobody writes to it, and who may enter the cache reads it.

    Source: huggingface_hub 2.4.0 `utils/_shared_blobs.py::_shared_blob_mode`.
    """
    try:
        entered = stat.S_IMODE(cache_dir.stat().st_mode)
    except OSError:
        return 0o400
    return 0o400 | (0o040 if entered & stat.S_IXGRP else 0) | (0o004 if entered & stat.S_IXOTH else 0)


def refer(disk: Disk, cache_dir: Path, xet_hash: str, users: Iterable[str]) -> None:
    """Note in a payload's `.refs` which repos' blobs link to it.

    It is written anew rather than appended to: behind a line that was cut, or beside bytes that are no text, the hub's
    clean-up would not find what was appended.

    Args:
        disk: takes the writes.
        cache_dir: the cache.
        xet_hash: the payload's name.
        users: `<repo folder>/blobs/<name>` of each.

    Raises:
        DiskError: it could not be written.
        LockedError: somebody has held the payload for long.

    Source: huggingface_hub 2.4.0 `utils/_shared_blobs.py`; older lines have no such store, but may meet one.
    """
    place = cache_dir / "blobs" / xet_hash[:2] / f"{xet_hash}.refs"
    with hub_lock(disk, place.with_suffix(".lock"), lambda what, waited_s: None, _PATIENCE_S):
        raw = b"" if place.is_symlink() or not place.is_file() else place.read_bytes()
        known = [line.decode() for line in raw.splitlines() if _USER.fullmatch(line)]
        lines = dict.fromkeys([*known, *users])
        if place.is_dir() and not place.is_symlink():
            disk.remove_dir(place)
        disk.write_file(place, "".join(f"{line}\n" for line in lines).encode(), mode=0o666)


def replace(cache_dir: Path, xet_hash: str, blob: Path, size: int) -> bool:
    """Put a repo's proved blob in a bad payload's place, for all who link to it; the blob is a link afterwards.

    The hub's own function does it, under the payload's lock. False where it cannot.
    """
    try:
        from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store
    except ImportError:
        return False
    publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=xet_hash, cache_dir=cache_dir, expected_size=size, replace_existing=True
    )
    return blob.is_symlink()


def sweeps() -> bool:
    """Return whether this line of the hub's client removes payloads."""
    try:
        from huggingface_hub.utils._shared_blobs import sweep_shared_blob
    except ImportError:
        return False
    return callable(sweep_shared_blob)


def sweep(cache_dir: Path, xet_hash: str) -> bool:
    """Remove a payload to which no repo links; returns whether it is gone."""
    try:
        from huggingface_hub.utils._shared_blobs import shared_blob_path, sweep_shared_blob
    except ImportError:
        return False
    place = shared_blob_path(cache_dir, xet_hash)
    sweep_shared_blob(place, cache_dir=cache_dir)
    return not os.path.lexists(place)
