"""The hub's shared blob store: one payload for all repos, found and linked to, never written."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fetchverify.core.manifest import RemoteFile
from fetchverify.core.plan import Copy
from fetchverify.store.proofs import Proofs

_XET_HASH = re.compile(r"[0-9a-f]{64}")


def _store_path(cache_dir: Path, file: RemoteFile) -> str | None:
    if file.xet_hash is None or _XET_HASH.fullmatch(file.xet_hash) is None:
        return None
    return f"{cache_dir}/blobs/{file.xet_hash[:2]}/{file.xet_hash}"


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
