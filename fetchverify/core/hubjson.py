"""What a Hub says of a repo, as JSON values that `huggingface_hub` and `core.tree` read; made from a listing alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fetchverify.core.manifest import RemoteFile, RepoKind
from fetchverify.core.pointer import pointer_text

Json = dict[str, Any]
# What git calls "none": a listing does not tell the ids of folders, and the hub's client wants the field.
NO_OBJECT = "0" * 40


def file_entry(file: RemoteFile) -> Json:
    """Return a file as the tree and paths-info routes show it; without Xet, which this Hub does not speak."""
    found: Json = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
    if file.is_lfs:
        found["lfs"] = {"oid": file.digest.hex, "size": file.size, "pointerSize": _pointer_size(file)}
    return found


def folder_entry(path: str) -> Json:
    """Return a folder as the tree route shows it."""
    return {"type": "directory", "oid": NO_OBJECT, "size": 0, "path": path}


def tree_entries(files: Iterable[RemoteFile], below: str, *, recursive: bool) -> list[RemoteFile | str]:
    """Return files, and folders as paths, that lie in the folder `below` (empty: the root), in order of their paths."""
    start = f"{below}/" if below else ""
    entries: dict[str, RemoteFile | str] = {}
    for file in files:
        if not file.path.startswith(start):
            continue
        rest = file.path[len(start) :]
        at = rest.find("/")
        while at >= 0:
            folder = start + rest[:at]
            entries[folder] = folder
            if not recursive:
                break
            at = rest.find("/", at + 1)
        else:
            entries[file.path] = file
    return [entries[path] for path in sorted(entries)]


def entry(what: RemoteFile | str) -> Json:
    """Return a file or folder as the tree route shows it."""
    return folder_entry(what) if isinstance(what, str) else file_entry(what)


def repo_info(
    kind: RepoKind,
    repo_id: str,
    commit: str,
    files: Sequence[RemoteFile],
    *,
    blobs: bool,
    only: Collection[str] = (),
) -> Json:
    """Return what is known of a repo at a commit.

    Args:
        kind: of the repo.
        repo_id: its name.
        commit: the commit.
        files: its files.
        blobs: tell size and digests of each file, too.
        only: just these fields, as `expand` asks for.
    """
    found = _row(kind, repo_id, commit)
    if not only or "siblings" in only:
        found["siblings"] = [_sibling(file, blobs=blobs) for file in files]
    if not only or "usedStorage" in only:
        found["usedStorage"] = sum(file.size for file in files)
    return {key: value for key, value in found.items() if not only or key in only or key == "id"}


def repo_row(kind: RepoKind, repo_id: str, commit: str | None) -> Json:
    """Return a repo's row in a listing of repos; `sha` tells a mirror of the mirror what is new."""
    return _row(kind, repo_id, commit)


def refs(commits: Mapping[str, str], *, pull_requests: bool) -> Json:
    """Return the refs of a repo; what was a tag and what a branch is not known here, so all are branches."""
    found: Json = {"branches": [], "converts": [], "tags": []}
    if pull_requests:
        found["pullRequests"] = []
    for name, commit in sorted(commits.items()):
        if name.startswith("refs/convert/"):
            short = name.removeprefix("refs/convert/")
            found["converts"].append({"name": short, "ref": name, "targetCommit": commit})
        elif name.startswith("refs/pr/"):
            if pull_requests:
                short = name.removeprefix("refs/pr/")
                found["pullRequests"].append({"name": short, "ref": name, "targetCommit": commit})
        else:
            found["branches"].append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit})
    return found


def page_of(query: Mapping[str, str], total: int, *, default: int, most: int) -> tuple[int, int, str | None]:
    """Return `[start, stop)` of the page that a query asks for, and the cursor of the next; None on the last."""
    limit = max(1, min(_number(query.get("limit"), default), most))
    start = min(_number(query.get("cursor"), 0), total)
    stop = min(start + limit, total)
    return start, stop, str(stop) if stop < total else None


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) <= 12 else default


def _row(kind: RepoKind, repo_id: str, commit: str | None) -> Json:
    found: Json = {"id": repo_id}
    if kind == "model":
        found["modelId"] = repo_id
    found["author"] = repo_id.split("/", maxsplit=1)[0] if "/" in repo_id else None
    if commit is not None:
        found["sha"] = commit
    return found | {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}


def _sibling(file: RemoteFile, *, blobs: bool) -> Json:
    found: Json = {"rfilename": file.path}
    if blobs:
        found |= {"size": file.size, "blobId": file.blob_id}
        if file.is_lfs:
            found["lfs"] = {"sha256": file.digest.hex, "size": file.size, "pointerSize": _pointer_size(file)}
    return found


def _pointer_size(file: RemoteFile) -> int:
    return len(pointer_text(file.digest.hex, file.size))
