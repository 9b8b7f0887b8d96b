"""What to do about each file, decided from what was promised and what was seen; carrying it out is left to `engine`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.paths import obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Bytes on disk that may be the file.

    Attributes:
        where: absolute path of the regular file (links followed).
        size: its length in bytes.
        proved: True where the ledger knows this very inode, unchanged, under the promised digest.
    """

    where: str
    size: int
    proved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What lies on disk for one promised file.

    Attributes:
        published: what readers get at the file's path today; None where nothing (or only a dangling link) is there.
        linked_right: the published path is the name the layout would give it (the right blob's link).
        copies: other places that hold bytes under the same digest: a blob, another revision, the hub's cache.
        landed: bytes that the journal of its partial vouches for.
        reserved: bytes of the disk that its partial occupies already, landed or not.
        obstacle: why the path cannot be written safely, for people; None where it can.
    """

    published: Copy | None = None
    linked_right: bool = True
    copies: tuple[Copy, ...] = ()
    landed: int = 0
    reserved: int = 0
    obstacle: str | None = None


NOTHING = Seen()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Published and right; hashed once first where `proved` is False."""

    file: RemoteFile
    copy: Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Publish from bytes that are on disk already; a copy that is not proved is hashed first."""

    file: RemoteFile
    copies: tuple[Copy, ...]
    replaces: Copy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Download the blob `digest` once and publish it under every path in `files` (never empty, one digest)."""

    files: tuple[RemoteFile, ...]
    landed: int
    replaces: tuple[Copy, ...] = ()
    reserved: int = 0

    @property
    def digest(self) -> Digest:
        """The blob's identity."""
        return self.files[0].digest

    @property
    def size(self) -> int:
        """The blob's length in bytes."""
        return self.files[0].size


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The target cannot take this file safely; nothing is written."""

    file: RemoteFile
    why: str


Action: TypeAlias = Keep | Link | Fetch | Refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every selected file in exactly one action; fetches of small files first, then in the manifest's order."""

    keeps: tuple[Keep, ...] = ()
    links: tuple[Link, ...] = ()
    fetches: tuple[Fetch, ...] = ()
    refusals: tuple[Refuse, ...] = ()
    copies_cost_space: bool = field(default=False)

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes that must come over the network."""
        return sum(max(0, fetch.files[0].size - fetch.landed) for fetch in self.fetches)

    @property
    def bytes_free_needed(self) -> int:
        """Bytes the disk must still take: what is missing and not reserved, and what a plain folder copies.

        A reflink costs nothing, but whether the file system can is known only when it is tried.
        """
        # The space of a partial was reserved when it was begun.
        missing = sum(max(0, each.files[0].size - max(each.landed, each.reserved)) for each in self.fetches)
        if not self.copies_cost_space:
            return missing
        copied = sum(link.file.size for link in self.links)
        return missing + copied + sum(fetch.size * (len(fetch.files) - 1) for fetch in self.fetches)

    @property
    def changes_nothing(self) -> bool:
        """True where every selected file is there and proved."""
        return not (self.links or self.fetches or self.refusals) and all(keep.copy.proved for keep in self.keeps)


# One request each, many at once: below this a file's cost is the round trip, not its bytes.
SMALL_FILE = 1 << 20


def plan_fetch(
    files: Iterable[RemoteFile],
    seen: Mapping[RepoPath, Seen],
    *,
    copies_cost_space: bool,
    force: bool = False,
    any_name: bool = False,
    bad: Collection[str] = (),
) -> Plan:
    """Return what it takes to publish `files`, at the least cost in bytes fetched.

    Args:
        files: the selected part of a manifest.
        seen: what the layout observed for each of them; a path that is absent there was not seen.
        copies_cost_space: True for a plain folder, whose files are copies and not links to one blob.
        force: fetch everything again, whatever is there.
        bad: places (`Copy.where`) whose bytes are known not to be what they should.
        any_name: the names are on this disk already: none is refused because another system could not hold it.
    """
    keeps: list[Keep] = []
    links: list[Link] = []
    refusals: list[Refuse] = []
    wanted: dict[str, list[RemoteFile]] = {}  # by digest: those of the two kinds differ in length
    known: dict[str, list[Seen]] = {}
    for file in files:
        what = seen.get(file.path, NOTHING)
        why = what.obstacle or (None if any_name else obstacle(file.path, folder=copies_cost_space))
        if why is not None:
            refusals.append(Refuse(file=file, why=why))
            continue
        if what is not NOTHING and not force:
            published = what.published
            right_size = published is not None and published.size == file.size and published.where not in bad
            if published is not None and right_size and what.linked_right:
                keeps.append(Keep(file=file, copy=published))
                continue
            # Bytes of another length cannot be the file: not even worth a hash.
            copies = [copy for copy in what.copies if copy.size == file.size and copy.where not in bad]
            if copies:
                copies.sort(key=lambda copy: not copy.proved)
                links.append(Link(file=file, copies=tuple(copies), replaces=published))
                continue
        wanted.setdefault(file.digest.hex, []).append(file)
        if what is not NOTHING:
            known.setdefault(file.digest.hex, []).append(what)
    fetches = [_fetch(tuple(group), known.get(key), force=force) for key, group in wanted.items()]
    fetches.sort(key=lambda fetch: fetch.files[0].size > SMALL_FILE)
    return Plan(
        keeps=tuple(keeps),
        links=tuple(links),
        fetches=tuple(fetches),
        refusals=tuple(refusals),
        copies_cost_space=copies_cost_space,
    )


def _fetch(files: tuple[RemoteFile, ...], known: list[Seen] | None, *, force: bool) -> Fetch:
    if known is None:
        return Fetch(files=files, landed=0)
    return Fetch(
        files=files,
        landed=0 if force else max(what.landed for what in known),
        replaces=tuple(what.published for what in known if what.published is not None),
        reserved=max(what.reserved for what in known),
    )
