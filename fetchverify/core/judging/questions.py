"""Whose bytes must be looked at, and held against what; answering is left to `engine.answering`."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping

from fetchverify.core.facts import CacheFacts, FolderFacts, Promises, Question, digest_of_name
from fetchverify.core.judging.links import blob_behind, inodes_of


def everything(path: str) -> bool:
    """Return True: no path is left out."""
    return True


def cache_questions(
    facts: CacheFacts, promised: Mapping[str, Promises], wanted: Callable[[str], bool] = everything
) -> list[Question]:
    """Return whose bytes have to be held against what: every blob against its name, every copy against its promise.

    Args:
        facts: the survey.
        promised: commit to what it holds; a commit of which nothing is known is absent.
        wanted: which paths of the repo matter; blobs that only others lead to are left out.
    """
    sizes = {
        promise.digest.hex: promise.size
        for files in promised.values()
        for promise in files.values()
        if promise.size is not None
    }
    only = None if wanted is everything else _blobs_of(facts, wanted)
    questions = []
    root = facts.root
    for name, state in facts.blobs.items():
        if stat.S_ISREG(state.st_mode) and (only is None or name in only):
            digest = digest_of_name(name)
            questions.append(Question(f"blobs/{name}", f"{root}/blobs/{name}", state, digest, sizes.get(name)))
    for name, link in facts.blob_links.items():
        if link.state is not None and link.where is not None and (only is None or name in only):
            digest = digest_of_name(name)
            if stat.S_ISREG(link.state.st_mode):
                questions.append(Question(f"blobs/{name}", link.where, link.state, digest, sizes.get(name)))
    inodes = inodes_of(facts)
    for commit, names in facts.snapshots.items():
        files = promised.get(commit, {})
        for path, entry in names.items():
            if isinstance(entry, str) or not stat.S_ISREG(entry.st_mode) or not wanted(path):
                continue
            promise = files.get(path)
            blob = inodes.get((entry.st_dev, entry.st_ino))
            if promise is not None and blob != promise.digest.hex:
                key = f"snapshots/{commit}/{path}"
                questions.append(Question(key, f"{root}/{key}", entry, promise.digest, promise.size))
    return questions


def _blobs_of(facts: CacheFacts, wanted: Callable[[str], bool]) -> set[str]:
    """Return the names of the blobs that wanted paths lead to."""
    inodes = inodes_of(facts)
    found = set()
    for commit, names in facts.snapshots.items():
        for path, entry in names.items():
            if wanted(path):
                if isinstance(entry, str):
                    name = blob_behind(facts.root, commit, path, entry)
                else:
                    name = inodes.get((entry.st_dev, entry.st_ino))
                if name is not None:
                    found.add(name)
    return found


def folder_questions(
    facts: FolderFacts, promises: Promises, wanted: Callable[[str], bool] = everything
) -> list[Question]:
    """Return whose bytes have to be held against what; of files without a promise, whether they are pointers."""
    questions = []
    for path, entry in facts.files.items():
        if not isinstance(entry, str) and stat.S_ISREG(entry.st_mode) and wanted(path):
            promise = promises.get(path)
            if promise is not None:
                questions.append(Question(path, f"{facts.root}/{path}", entry, promise.digest, promise.size))
            elif entry.st_size <= _MOST_POINTER_BYTES:
                questions.append(Question(path, f"{facts.root}/{path}", entry, None))
    return questions


# git-lfs takes nothing longer for a pointer (`docs/spec.md`).
_MOST_POINTER_BYTES = 1024
