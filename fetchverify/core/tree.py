"""The Hub's listings, validated field by field into `RemoteFile`s; fetching them is left to `net.hub`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.paths import check_path, check_size, shown
from fetchverify.core.pointer import pointer_blob_id
from fetchverify.errors import UntrustedMetadataError

# The largest datasets of the Hub have a few million files; beyond this a listing is an attack or a mistake.
MAX_ENTRIES = 10_000_000

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile(r"[0-9]{1,16}")


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit id (40 lower-case hex digits)."""
    return _SHA1.fullmatch(revision) is not None


def parse_tree_page(page: Any) -> list[RemoteFile]:
    """Return the files of one page of the tree API; folders are left out.

    Raises:
        UntrustedMetadataError: anything is not as the Hub writes it.

    Source: huggingface_hub 2.4.0 `hf_api.py::RepoFile`.
    """
    if not isinstance(page, list):
        raise UntrustedMetadataError("the Hub's listing is no list")
    files = []
    for entry in page:
        if not isinstance(entry, dict) or entry.get("type") not in ("file", "directory"):
            raise UntrustedMetadataError("the Hub's listing holds something that is neither a file nor a folder")
        if entry["type"] == "file":
            path = check_path(entry.get("path"))
            files.append(remote_file(path, entry.get("oid"), entry.get("size"), entry.get("lfs"), entry.get("xetHash")))
    return files


def parse_siblings(answer: Any) -> Iterator[RemoteFile | RepoPath]:
    """Yield the files of a revision's `siblings`; only the path where the mirror gives no digest.

    Raises:
        UntrustedMetadataError: anything is not as the Hub writes it.

    Source: huggingface_hub 2.4.0 `hf_api.py::RepoSibling` (`?blobs=true`).
    """
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(siblings, list):
        raise UntrustedMetadataError("the Hub lists no files for this revision")
    if len(siblings) > MAX_ENTRIES:
        raise UntrustedMetadataError(f"the Hub lists more than {MAX_ENTRIES:,} files")
    for entry in siblings:
        if not isinstance(entry, dict):
            raise UntrustedMetadataError("the Hub's listing holds something that is no file")
        path = check_path(entry.get("rfilename"))
        if entry.get("blobId") is None or entry.get("size") is None:
            yield path
        else:
            lfs = entry.get("lfs")
            lfs = {"oid": lfs.get("sha256"), "size": lfs.get("size")} if isinstance(lfs, dict) else lfs
            yield remote_file(path, entry["blobId"], entry["size"], lfs, None)


def file_from_headers(path: RepoPath, headers: Mapping[str, str], *, redirected: bool) -> RemoteFile:
    """Return a file as the headers of its download describe it.

    Args:
        path: the file.
        headers: the Hub's answer to HEAD; names in any case.
        redirected: the answer is a redirect: its own length is not the file's.

    Raises:
        UntrustedMetadataError: they do not name a digest and a size; nothing could be proved then.

    Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    # A redirect's own ETag is the redirect's, not the file's.
    etag = lower.get("x-linked-etag") or ("" if redirected else lower.get("etag", ""))
    etag = etag.removeprefix("W/").strip('"')
    size = lower.get("x-linked-size") or ("" if redirected else lower.get("content-length", ""))
    if not _SIZE.fullmatch(size) or not (_SHA256.fullmatch(etag) or _SHA1.fullmatch(etag)):
        raise UntrustedMetadataError(
            f"the endpoint names no digest or no size of `{shown(path)}`: nothing could be proved",
            hint="use the Hub itself, or a mirror that keeps its headers (`--endpoint`)",
        )
    if _SHA1.fullmatch(etag):
        return remote_file(path, etag, int(size), None, None)
    # Headers do not name the pointer's git id, but git-lfs writes pointers in one way only.
    blob_id = pointer_blob_id(etag, int(size))
    return remote_file(path, blob_id, int(size), {"oid": etag, "size": int(size)}, None)


def remote_file(path: RepoPath, oid: Any, size: Any, lfs: Any, xet_hash: Any) -> RemoteFile:
    """Return one entry of a listing, every field checked; `lfs` is None or an object with `oid` and `size`.

    Raises:
        UntrustedMetadataError: a field is not as git or LFS would have it.
    """
    if not isinstance(oid, str) or not _SHA1.fullmatch(oid):
        raise UntrustedMetadataError(f"`{shown(path)}` has no git object id: {_told(oid)}")
    length = check_size(path, size)
    digest = Digest(algo="git-sha1", hex=oid)
    if lfs is not None:
        sha256 = lfs.get("oid") if isinstance(lfs, dict) else None
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise UntrustedMetadataError(f"`{shown(path)}` has no sha256 in its LFS record: {_told(sha256)}")
        if check_size(path, lfs.get("size")) != length:
            raise UntrustedMetadataError(f"`{shown(path)}` has two sizes: {length} and {lfs['size']} bytes")
        digest = Digest(algo="sha256", hex=sha256)
    # Nothing of ours rests on the Xet hash; it only goes back to the hub's own tree cache, which wants it right.
    xet = xet_hash if isinstance(xet_hash, str) and _SHA256.fullmatch(xet_hash) else None
    return RemoteFile(path=path, size=length, digest=digest, blob_id=oid, xet_hash=xet)


def _told(value: Any) -> str:
    return "there is none" if value is None else f"it says `{shown(value, 80)}`"
