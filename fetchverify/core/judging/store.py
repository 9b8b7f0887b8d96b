"""What is wrong in the store that all repos of a cache share: marker, users and modes, not the payloads' bytes."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterable

from fetchverify.core.facts import CacheFacts, StoreFacts
from fetchverify.core.findings import Kind, Verdict


def judge_store(facts: StoreFacts, repos: Iterable[CacheFacts]) -> Verdict:
    """Return what is wrong in the store that all repos of a cache share; payloads are judged as the repos' blobs.

    Args:
        facts: the survey of the store.
        repos: the surveys of all repos of the cache: with some left out, their references would seem lost.
    """
    verdict = Verdict()
    users: dict[str, list[str]] = {}
    for repo in repos:
        folder = posixpath.basename(repo.root)
        for name, link in repo.blob_links.items():
            if link.where is not None:
                users.setdefault(posixpath.basename(link.where), []).append(f"{folder}/blobs/{name}")
    if not facts.marked and facts.payloads:
        verdict.add(Kind.UNMARKED_STORE, "blobs", "blobs", detail="the hub's client does not use it")
    for name, (state, refs) in facts.payloads.items():
        key = f"blobs/{name[:2]}/{name}"
        used = users.get(name, [])
        if not used:
            verdict.add(Kind.ORPHAN_PAYLOAD, key, key, size=state.st_size)
        for user in used:
            if user not in (refs or ()):
                detail = f"`{name[:12]}….refs` does not name `{user}`: the hub's clean-up would delete it"
                verdict.add(Kind.LOST_REFERENCE, key, key, names=(user,), size=state.st_size, detail=detail)
        if not state.st_mode & stat.S_IRUSR:
            verdict.add(Kind.WRONG_MODE, key, key, detail="its owner may not read it")
        elif state.st_mode & _WRITABLE:
            verdict.add(Kind.LOOSE_MODE, key, key)
    for path, state in facts.litter.items():
        verdict.add(Kind.STRANGE, f"blobs/{path}", f"blobs/{path}", size=state.st_size)
    return verdict


_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
