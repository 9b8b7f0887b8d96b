"""Which whole but stale revisions and blobs of a cache may go: only what was asked for, never a pin."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_DAY_S = 86400.0


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


class Bytes(NamedTuple):
    """Some bytes on disk, however many names they have.

    Attributes:
        inode: tells them from others.
        size: how many they are.
        names: how many names have to go until they are free: hard links, or a shared payload's users.
    """

    inode: object
    size: int
    names: int


Sizes = Mapping[tuple[str, str], Bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One snapshot in the cache.

    Attributes:
        repo: `(type, id)`.
        folder: the repo's folder.
        refs: names of refs that lead to it.
        blobs: names of the blobs that it leads to, and of those its copies are.
        used: Unix time of the last use, as far as the file system tells.
        told_by: what told it: a file's access time, or the time at which a link was made.
        copies: the bytes of each of its names that is no link: a hard link to a blob, or a file of its own.
    """

    repo: tuple[str, str]
    folder: str
    commit: str
    refs: tuple[str, ...]
    blobs: frozenset[str]
    used: float
    told_by: str = "access time"
    copies: tuple[Bytes, ...] = ()


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
    sizes: Sizes,
    options: PurgeOptions,
    *,
    now: float,
) -> list[Purge]:
    """Return what goes, least recently used first.

    Args:
        revisions: all of the cache.
        unlinked: a repo's folder to the blobs that no name leads to.
        sizes: `(folder, blob)` to its bytes.
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
    freed = _Freed(sizes)
    return [*_revisions(ordered, staying, freed, going), *_orphans(unlinked, freed, options)]


def _stale(revision: Revision, revisions: Sequence[Revision], options: PurgeOptions, now: float) -> str | None:
    if options.older_than_s is not None and now - revision.used > options.older_than_s:
        return f"last used {_ago(now - revision.used)} by its {revision.told_by}"
    if options.unreferenced and not revision.refs:
        return "no ref names it"
    if options.keep_revisions is not None:
        mine = [each for each in revisions if each.folder == revision.folder]
        mine.sort(key=lambda each: (not each.refs, -each.used))
        if not revision.refs and mine.index(revision) >= options.keep_revisions:  # what a ref names is in use
            return "more revisions than are kept"
    return None


def _ago(seconds: float) -> str:
    days = int(seconds // _DAY_S)
    return "today" if days < 1 else "a day ago" if days == 1 else f"{days:,} days ago"


def _names(revision: Revision, sizes: Sizes) -> Iterator[Bytes]:
    """Yield the bytes of every name that a revision alone has, or shares with others of its repo."""
    yield from revision.copies
    for blob in revision.blobs:
        found = sizes.get((revision.folder, blob))
        if found is not None:
            yield found


def _shrink(
    revisions: Sequence[Revision],
    free: Sequence[Revision],
    sizes: Sizes,
    most: int,
    going: dict[tuple[str, str], str],
) -> None:
    staying = [each for each in revisions if (each.folder, each.commit) not in going]
    holders = Counter(one.inode for each in staying for one in _names(each, sizes))
    size = sum({one.inode: one.size for each in staying for one in _names(each, sizes)}.values())
    for revision in sorted((each for each in staying if each in free), key=lambda each: each.used):
        if size <= most:
            return
        going[revision.folder, revision.commit] = "the cache is larger than it may be"
        for one in _names(revision, sizes):
            holders[one.inode] -= 1
            size -= 0 if holders[one.inode] else one.size


class _Freed:
    """Counts the names of bytes that go: with the last one they are free."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._gone: Counter[object] = Counter()

    def blob(self, folder: str, name: str) -> int:
        """Return the bytes that are free when this blob goes, too."""
        found = self._sizes.get((folder, name))
        return 0 if found is None else self.name(found)

    def name(self, of: Bytes) -> int:
        """Return the bytes that are free when one more of their names goes."""
        self._gone[of.inode] += 1
        return of.size if self._gone[of.inode] == of.names else 0


def _revisions(
    ordered: Sequence[Revision], staying: Sequence[Revision], freed: _Freed, going: Mapping[tuple[str, str], str]
) -> Iterator[Purge]:
    # A blob goes with the last of its revisions.
    users = Counter((each.folder, blob) for each in (*ordered, *staying) for blob in each.blobs)
    for revision in ordered:
        frees = sum(freed.name(copy) for copy in revision.copies)
        blobs = []
        for blob in sorted(revision.blobs):
            users[revision.folder, blob] -= 1
            if not users[revision.folder, blob]:
                blobs.append(blob)
                frees += freed.blob(revision.folder, blob)
        yield Purge(
            folder=revision.folder,
            commit=revision.commit,
            blobs=tuple(blobs),
            frees=frees,
            why=going[revision.folder, revision.commit],
        )


def _orphans(unlinked: Mapping[str, Iterable[str]], freed: _Freed, options: PurgeOptions) -> Iterator[Purge]:
    if not options.unreferenced:
        return
    pinned = {pin for pin in options.pins if "@" not in pin}
    for folder, blobs in unlinked.items():
        repo = folder.partition("--")[2].replace("--", "/")
        if any(fnmatch.fnmatchcase(repo, pin) for pin in pinned):
            continue
        for blob in blobs:
            frees = freed.blob(folder, blob)
            yield Purge(folder=folder, commit="", blobs=(blob,), frees=frees, why="no name leads to it")
