"""What a git clone of a repo says about itself: its commit, where it came from, what each file should be.

Read by git's plumbing, which follows worktrees, packed refs and alternates; nothing is fetched, no hook or filter runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fetchverify.core.facts import Evidence, Promised
from fetchverify.core.manifest import Digest
from fetchverify.core.pointer import LONGEST_POINTER, parse_pointer
from fetchverify.core.tree import is_commit
from fetchverify.store.git import Git, GitError

# A partial clone would fetch what is missing, and hooks are the clone's own programs.
_ENV = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
_SAFE = ("-c", "core.hooksPath=/dev/null", "--no-replace-objects")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneHead:
    """What a clone says.

    Attributes:
        commit: what `HEAD` names.
        origin: the address it was cloned from, as it stands in its configuration.
    """

    commit: str
    origin: str | None


def _git(root: Path, *words: str, given: bytes = b"") -> bytes | None:
    try:
        return Git(root)(*_SAFE, *words, data=given, extra=_ENV)
    except GitError:
        return None


def look_at_clone(root: Path) -> CloneHead | None:
    """Return what the clone says; None without git, a commit, or git's leave (another's folder)."""
    top = _git(root, "rev-parse", "--show-toplevel")
    head = _git(root, "rev-parse", "--verify", "HEAD^{commit}")
    # Only its own top: a folder of data inside some other work tree is no clone.
    if top is None or head is None or os.path.realpath(os.fsdecode(top.strip())) != os.path.realpath(root):
        return None
    commit = head.decode("ascii", "replace").strip()
    origin = _git(root, "config", "--get", "remote.origin.url")
    text = None if origin is None else origin.decode("utf-8", "replace").strip()
    return CloneHead(commit=commit, origin=text or None) if is_commit(commit) else None


def clone_promises(root: Path, commit: str) -> dict[str, Promised] | None:
    """Return what each file of the clone's commit should be; an LFS pointer's file is what the pointer names."""
    listing = _git(root, "ls-tree", "-r", "-z", "-l", "--full-tree", commit)
    if listing is None:
        return None
    found: dict[str, Promised] = {}
    small: dict[str, list[str]] = {}
    for entry in listing.split(b"\0"):
        head, _, name = entry.partition(b"\t")
        fields = head.split()
        if len(fields) != 4 or fields[1] != b"blob" or not fields[3].isdigit():
            continue
        oid, size, path = fields[2].decode(), int(fields[3]), os.fsdecode(name)
        link = fields[0] == b"120000"
        found[path] = Promised(Digest(algo="git-sha1", hex=oid), None if link else size, Evidence.GIT)
        if size < LONGEST_POINTER and not link:
            small.setdefault(oid, []).append(path)
    for oid, data in _contents(root, list(small)):
        pointer = parse_pointer(data)
        if pointer is not None:
            for path in small[oid]:
                found[path] = Promised(pointer.digest, pointer.size, Evidence.GIT)
    return found


def _contents(root: Path, oids: list[str]) -> Iterator[tuple[str, bytes]]:
    raw = _git(root, "cat-file", "--batch", given="".join(f"{oid}\n" for oid in oids).encode()) if oids else b""
    view, at = raw or b"", 0
    while at < len(view):
        end = view.find(b"\n", at)
        fields = view[at:end].split()
        at = end + 1
        if end < 0:
            return
        if len(fields) != 3 or not fields[2].isdigit():
            continue  # `<oid> missing`: a partial clone
        size = int(fields[2])
        yield fields[0].decode(), view[at : at + size]
        at += size + 1
