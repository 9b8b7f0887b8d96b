"""Looks at all of a plain folder: ours (`--to`), one of the hub's client (`--local-dir`), or a git clone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from fetchverify.core.facts import FolderFacts, Record
from fetchverify.core.tree import is_commit
from fetchverify.store.area import AREA_NAME
from fetchverify.store.localdir import HUB_FOLDER
from fetchverify.store.scan import Scan, small_bytes
from fetchverify.store.survey import survey_area, survey_trees

_HUB = "/".join(HUB_FOLDER)
_NOT_THE_REPOS = frozenset({AREA_NAME, ".git"})
_METADATA = ".metadata"


def survey_folder(directory: Path) -> FolderFacts:
    """Return what lies in a folder; a symlink here is the user's own and is followed, once."""
    root = os.path.realpath(directory)
    scan = Scan(root)
    files = scan.tree("", skip=_NOT_THE_REPOS)
    hubs = {path: files.pop(path) for path in [path for path in files if path.startswith(f"{_HUB}/")]}
    dangling = [path for path, entry in files.items() if isinstance(entry, str) and not Path(root, path).exists()]
    records = {}
    incompletes = {}
    for path, entry in hubs.items():
        if isinstance(entry, str) or not path.startswith(f"{_HUB}/download/"):
            continue
        if path.endswith(_METADATA):
            record = _record(f"{root}/{path}")
            if record is not None:
                records[path[len(_HUB) + len("/download/") : -len(_METADATA)]] = record
        elif path.endswith(".incomplete"):
            incompletes[path] = entry
    return FolderFacts(
        root=root,
        now=time.time(),
        files=files,
        dangling=frozenset(dangling),
        records=records,
        trees=survey_trees(scan, f"{_HUB}/trees"),
        refs=_refs(scan),
        clone=os.path.lexists(f"{root}/.git"),
        incompletes=incompletes,
        unreadable=scan.unreadable,
        area=survey_area(scan, AREA_NAME),
    )


def _record(path: str) -> Record | None:
    """Return the hub client's record of a file; None where it holds anything else.

    Source: huggingface_hub 1.33.0 and 2.4.0 `_local_folder.py::read_download_metadata`.
    """
    raw = small_bytes(path, 4096)
    try:
        commit, etag, moment = (raw or b"").decode().splitlines()
        return Record(commit, etag, float(moment))
    except ValueError:
        return None


def _refs(scan: Scan) -> tuple[tuple[str, str, str], ...]:
    found = []
    for entry in scan.entries(f"{AREA_NAME}/refs"):
        raw = small_bytes(entry.path, 4096)
        try:
            body = json.loads(raw or b"")
            repo, revision, commit = body["repo"], body["revision"], body["commit"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(repo, str) and isinstance(revision, str) and isinstance(commit, str) and is_commit(commit):
            found.append((repo, revision, commit))
    return tuple(sorted(found))
