"""The Hub's listings, validated field by field into `RemoteFile`s; fetching them is left to `net.hub`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.paths import check_path, check_size
from fetchverify.errors import UntrustedMetadataError

# The largest datasets of the Hub have a few million files; beyond this a listing is an attack or a mistake.
MAX_ENTRIES = 10_000_000

_SHA1 = re.compile(r"[0-9a-f]{40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit id (40 lower-case hex digits)."""
    return _SHA1.match(revision) is not None


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
            raise UntrustedMetadataError(f"the Hub's listing holds {_show(entry)}, neither a file nor a folder")
        if entry["type"] == "file":
            path = check_path(entry.get("path"))
            files.append(_file(path, entry.get("oid"), entry.get("size"), entry.get("lfs"), entry.get("xetHash")))
    return files


def parse_siblings(answer: Any) -> Iterator[RemoteFile | RepoPath]:
    """Yield the files of a revision's `siblings`; only the path where the mirror gives no digest.

    Source: huggingface_hub 2.4.0 `hf_api.py::RepoSibling` (`?blobs=true`).
    """
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(siblings, list):
        raise UntrustedMetadataError("the Hub lists no files for this revision")
    for entry in siblings:
        if not isinstance(entry, dict):
            raise UntrustedMetadataError(f"the Hub's listing holds {_show(entry)}, which is no file")
        path = check_path(entry.get("rfilename"))
        if entry.get("blobId") is None or entry.get("size") is None:
            yield path
        else:
            lfs = entry.get("lfs")
            lfs = {"oid": lfs.get("sha256"), "size": lfs.get("size")} if isinstance(lfs, dict) else lfs
            yield _file(path, entry["blobId"], entry["size"], lfs, None)


def file_from_headers(path: RepoPath, headers: Mapping[str, str], *, redirected: bool) -> RemoteFile:
    """Return a file as the headers of its download describe it.

    Raises:
        UntrustedMetadataError: they do not name a digest and a size; nothing could be proved then.

    Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
    """
    etag = headers.get("x-linked-etag") or headers.get("etag") or ""
    etag = etag.removeprefix("W/").strip('"')
    size = headers.get("x-linked-size") or (None if redirected else headers.get("content-length"))
    if size is None or not re.fullmatch(r"\d{1,19}", size) or not (_SHA256.match(etag) or _SHA1.match(etag)):
        raise UntrustedMetadataError(
            f"the mirror names neither digest nor size of `{path}`: nothing could be proved",
            hint="use the Hub itself, or a mirror that keeps its headers (`--endpoint`)",
        )
    if _SHA256.match(etag):
        return _file(path, "0" * 40, int(size), {"oid": etag, "size": int(size)}, None)
    return _file(path, etag, int(size), None, None)


def _file(path: RepoPath, oid: Any, size: Any, lfs: Any, xet_hash: Any) -> RemoteFile:
    if not isinstance(oid, str) or not _SHA1.match(oid):
        raise UntrustedMetadataError(f"`{path}` has no git object id but {_show(oid)}")
    if xet_hash is not None and not (isinstance(xet_hash, str) and _SHA256.match(xet_hash)):
        raise UntrustedMetadataError(f"`{path}` has no Xet hash but {_show(xet_hash)}")
    digest = Digest(algo="git-sha1", hex=oid)
    length = check_size(path, size)
    if lfs is not None:
        sha256 = lfs.get("oid") if isinstance(lfs, dict) else None
        if not isinstance(sha256, str) or not _SHA256.match(sha256):
            raise UntrustedMetadataError(f"`{path}` has no sha256 in its LFS record but {_show(sha256)}")
        digest = Digest(algo="sha256", hex=sha256)
        if check_size(path, lfs.get("size")) != length:
            raise UntrustedMetadataError(f"`{path}` has two sizes: {length} and {lfs.get('size')} bytes")
    return RemoteFile(path=path, size=length, digest=digest, blob_id=oid, xet_hash=xet_hash)


def _show(value: Any) -> str:
    """Return a hostile value in a form that is short and cannot play tricks on a terminal."""
    text = ascii(value)
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"
