"""The hub's shared blob store: one payload for all repos, found and linked to; written by the hub's own functions."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fetchverify.core.manifest import RemoteFile
from fetchverify.core.plan import Copy
from fetchverify.store.diskerrors import disk_error
from fetchverify.store.proofs import Proofs

_XET_HASH = re.compile(r"[0-9a-f]{64}")


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


def refer(cache_dir: Path, xet_hash: str, user: str) -> bool:
    """Note in a payload's `.refs` that a repo's blob links to it; False where the hub's client has no such notes.

    Args:
        cache_dir: the cache.
        xet_hash: the payload's name.
        user: `<repo folder>/blobs/<name>`.

    Raises:
        DiskError: it could not be written.
    """
    try:
        from huggingface_hub.utils import _shared_blobs as hubs
    except ImportError:
        return False
    place = hubs.shared_blob_path(cache_dir, xet_hash)
    try:
        with hubs._shared_blob_lock(place):
            hubs._append_manifest_reference(hubs.shared_blob_manifest_path(cache_dir, xet_hash), user)
    except OSError as error:
        raise disk_error(error, "write", place) from error
    return True


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


def sweep(cache_dir: Path, xet_hash: str) -> bool:
    """Remove a payload to which no repo links; returns whether it is gone."""
    try:
        from huggingface_hub.utils._shared_blobs import shared_blob_path, sweep_shared_blob
    except ImportError:
        return False
    place = shared_blob_path(cache_dir, xet_hash)
    sweep_shared_blob(place, cache_dir=cache_dir)
    return not os.path.lexists(place)
