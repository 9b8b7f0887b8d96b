"""Which whole but stale revisions and blobs of a cache may go: only what was asked for, never a pin."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeOptions:
    """What may go; None asks for nothing.

    Attributes:
        older_than_s: revisions that nobody used for so many seconds.
        keep_revisions: so many of each repo's revisions stay, the latest used and those that a ref names first.
        max_size: bytes that all revisions together may take; the least recently used go first.
        unreferenced: revisions without a ref, and blobs without a name.
        pins: `org/name` or `org/name@revision`, with `*`; they are never touched.
    """

    older_than_s: float | None = None
    keep_revisions: int | None = None
    max_size: int | None = None
    unreferenced: bool = False
    pins: tuple[str, ...] = ()

    @property
    def asked(self) -> bool:
        """True where anything may go."""
        return self.unreferenced or any(
            each is not None for each in (self.older_than_s, self.keep_revisions, self.max_size)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One snapshot in the cache.

    Attributes:
        repo: `(type, id)`.
        folder: the repo's folder.
        refs: names of refs that lead to it.
        blobs: names of the blobs that it leads to, and of those its copies are.
        used: Unix time of the last use, as far as the file system tells.
    """

    repo: tuple[str, str]
    folder: str
    commit: str
    refs: tuple[str, ...]
    blobs: frozenset[str]
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """One thing that goes: a revision, or (with an empty commit) one blob.

    Attributes:
        blobs: those that no revision that stays leads to.
        frees: bytes on disk; hard links and shared payloads count once, and only where nobody else has them.
    """

    folder: str
    commit: str
    blobs: tuple[str, ...]
    frees: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "folder": self.folder,
            "commit": self.commit or None,
            "blobs": list(self.blobs),
            "frees": self.frees,
            "why": self.why,
        }


def is_pinned(revision: Revision, pins: Iterable[str]) -> bool:
    """Return whether a pin names this revision: by repo, or by repo and one of its refs or its commit."""
    for pin in pins:
        repo, _, name = pin.partition("@")
        if not fnmatch.fnmatchcase(revision.repo[1], repo):
            continue
        if not name or name in revision.refs or (len(name) >= 7 and revision.commit.startswith(name)):
            return True
    return False


def plan_purge(
    revisions: Sequence[Revision],
    unlinked: Mapping[str, Iterable[str]],
    sizes: Mapping[tuple[str, str], tuple[object, int]],
    options: PurgeOptions,
    *,
    now: float,
) -> list[Purge]:
    """Return what goes, least recently used first.

    Args:
        revisions: all of the cache.
        unlinked: a repo's folder to the blobs that no name leads to.
        sizes: `(folder, blob)` to the identity of its bytes (an inode) and their number.
        options: what was asked for.
        now: Unix time.
    """
    going: dict[tuple[str, str], str] = {}
    free = [revision for revision in revisions if not is_pinned(revision, options.pins)]
    for revision in free:
        why = _stale(revision, revisions, options, now)
        if why is not None:
            going[revision.folder, revision.commit] = why
    if options.max_size is not None:
        _shrink(revisions, free, sizes, options.max_size, going)
    ordered = sorted((r for r in free if (r.folder, r.commit) in going), key=lambda r: r.used)
    staying = [r for r in revisions if (r.folder, r.commit) not in going]
    return [*_revisions(ordered, staying, sizes, going), *_orphans(unlinked, revisions, sizes, options)]


def _stale(revision: Revision, revisions: Sequence[Revision], options: PurgeOptions, now: float) -> str | None:
    if options.older_than_s is not None and now - revision.used > options.older_than_s:
        return "not used for longer"
    if options.unreferenced and not revision.refs:
        return "no ref names it"
    if options.keep_revisions is not None:
        mine = [each for each in revisions if each.folder == revision.folder]
        mine.sort(key=lambda each: (not each.refs, -each.used))
        if not revision.refs and mine.index(revision) >= options.keep_revisions:  # what a ref names is in use
            return "more revisions than are kept"
    return None


def _inodes(revisions: Iterable[Revision], sizes: Mapping[tuple[str, str], tuple[object, int]]) -> dict[object, int]:
    keys = {(revision.folder, blob) for revision in revisions for blob in revision.blobs}
    return dict(sizes[key] for key in keys if key in sizes)


def _shrink(
    revisions: Sequence[Revision],
    free: Sequence[Revision],
    sizes: Mapping[tuple[str, str], tuple[object, int]],
    most: int,
    going: dict[tuple[str, str], str],
) -> None:
    for revision in [None, *sorted(free, key=lambda each: each.used)]:
        if revision is not None:
            going.setdefault((revision.folder, revision.commit), "the cache is larger than it may be")
        staying = [each for each in revisions if (each.folder, each.commit) not in going]
        if sum(_inodes(staying, sizes).values()) <= most:
            return


def _revisions(
    ordered: Sequence[Revision],
    staying: Sequence[Revision],
    sizes: Mapping[tuple[str, str], tuple[object, int]],
    going: Mapping[tuple[str, str], str],
) -> Iterable[Purge]:
    kept = set(_inodes(staying, sizes))
    needed = {(revision.folder, blob) for revision in staying for blob in revision.blobs}
    gone: set[tuple[str, str]] = set()
    for revision in ordered:
        blobs = [blob for blob in sorted(revision.blobs) if (revision.folder, blob) not in needed | gone]
        gone |= {(revision.folder, blob) for blob in blobs}
        frees = 0
        for blob in blobs:
            inode, size = sizes.get((revision.folder, blob), (None, 0))
            if inode not in kept:
                frees += size
                kept.add(inode)
        yield Purge(
            folder=revision.folder,
            commit=revision.commit,
            blobs=tuple(blobs),
            frees=frees,
            why=going[revision.folder, revision.commit],
        )


def _orphans(
    unlinked: Mapping[str, Iterable[str]],
    revisions: Sequence[Revision],
    sizes: Mapping[tuple[str, str], tuple[object, int]],
    options: PurgeOptions,
) -> Iterable[Purge]:
    if not options.unreferenced:
        return
    kept = set(_inodes(revisions, sizes))
    pinned = {pin for pin in options.pins if "@" not in pin}
    for folder, blobs in unlinked.items():
        repo = folder.partition("--")[2].replace("--", "/")
        if any(fnmatch.fnmatchcase(repo, pin) for pin in pinned):
            continue
        for blob in blobs:
            inode, size = sizes.get((folder, blob), (None, 0))
            frees = 0 if inode in kept else size
            yield Purge(folder=folder, commit="", blobs=(blob,), frees=frees, why="no name leads to it")
