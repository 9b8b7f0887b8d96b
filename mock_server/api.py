"""JSON bodies of the Hub's API, as `huggingface_hub` reads them; routing and access are left to `app`."""

import json
from collections.abc import Collection
from typing import Any

from mock_server.messages import Response, respond
from mock_server.world import Commit, Folder, Repo, RepoFile

Json = dict[str, Any]


def json_response(value: object, status: int = 200) -> Response:
    """Return a response of JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return respond(status, body, content_type="application/json; charset=utf-8")


def entry_json(entry: RepoFile | Folder, commit: Commit, *, expand: bool) -> Json:
    """Return an entry of the tree and paths-info routes."""
    if isinstance(entry, Folder):
        found: Json = {"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path}
    else:
        found = {"type": "file", "oid": entry.git_oid(), "size": entry.size, "path": entry.path}
        if entry.lfs:
            found["lfs"] = {
                "oid": entry.content.sha256(),
                "size": entry.size,
                "pointerSize": len(entry.pointer()),
            }
    if expand:
        found["lastCommit"] = {"id": commit.id, "title": commit.title, "date": commit.date}
        if isinstance(entry, RepoFile):
            found["securityFileStatus"] = {
                "status": "safe",
                "jFrogScan": None,
                "avScan": {"status": "safe"},
                "pickleImportScan": None,
            }
    return found


def info_json(repo: Repo, commit: Commit, *, blobs: bool, only: Collection[str] = ()) -> Json:
    """Return a repo's information at a commit, or with `only` just these of its fields."""
    found: Json = {
        "_id": commit.folder_oid("")[:24],
        "id": repo.repo_id,
        **({"modelId": repo.repo_id} if repo.kind == "model" else {}),
        "author": repo.repo_id.split("/")[0] if "/" in repo.repo_id else None,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": commit.date,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": repo.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    if not only or "usedStorage" in only:
        found["usedStorage"] = sum(file.size for file in commit.files.values())
    if not only or "siblings" in only:
        found["siblings"] = [_sibling(file, blobs=blobs) for file in commit.files.values()]
    if only:
        found = {key: value for key, value in found.items() if key in only or key in {"_id", "id"}}
    return found


def listing_json(repo: Repo, *, full: bool) -> Json:
    """Return a repo's row in a listing of repos."""
    only = {"siblings", "author", "lastModified"} if full else set()
    shown = {"modelId", "sha", "private", "gated", "disabled", "downloads", "likes", "tags", "createdAt"}
    commit = repo.at("main")
    if commit is None:
        return {"id": repo.repo_id, "private": repo.private}
    return info_json(repo, commit, blobs=False, only=shown | only)


def refs_json(repo: Repo, *, pull_requests: bool) -> Json:
    """Return the branches and tags of a repo."""
    prs = {name: commit for name, commit in repo.branches.items() if name.startswith("refs/pr/")}
    converts = {name: commit for name, commit in repo.branches.items() if name.startswith("refs/convert/")}
    found: Json = {
        "branches": [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in sorted(repo.branches.items())
            if name not in prs and name not in converts
        ],
        "converts": [
            {"name": name.split("/", 2)[2], "ref": name, "targetCommit": commit}
            for name, commit in sorted(converts.items())
        ],
        "tags": [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
            for name, commit in sorted(repo.tags.items())
        ],
    }
    if pull_requests:
        found["pullRequests"] = [
            {"name": name.split("/")[2], "ref": name, "targetCommit": commit} for name, commit in sorted(prs.items())
        ]
    return found


def _sibling(file: RepoFile, *, blobs: bool) -> Json:
    found: Json = {"rfilename": file.path}
    if blobs:
        found["size"] = file.size
        found["blobId"] = file.git_oid()
        if file.lfs:
            found["lfs"] = {
                "sha256": file.content.sha256(),
                "size": file.size,
                "pointerSize": len(file.pointer()),
            }
    return found
