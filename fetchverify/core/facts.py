"""What was seen on disk and what was promised; looking is left to `store.survey`, judging to `core.judging`.

Made for 100,000 names: a link is its text, a file a `State`, and nothing else is kept of either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from fetchverify.core.manifest import Digest
from fetchverify.core.pointer import LONGEST_POINTER


class State(NamedTuple):
    """What `lstat` said of one name; the fields are called as `os.stat_result` calls them."""

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_dev: int
    st_ino: int
    st_nlink: int
    st_ctime_ns: int = 0


class Folders(NamedTuple):
    """What stands for a snapshot that holds links alone.

    Attributes:
        paths: its folders, by path below it, itself (the empty text) first.
        digest: of their paths and states.
    """

    paths: tuple[str, ...]
    digest: str


# What a name is: the text of a symbolic link, or the state of anything else (file, folder, socket).
Entry: TypeAlias = str | State


class Evidence(Enum):
    """What a file's bytes can be held against, the strongest first."""

    HUB = "the Hub's listing"
    LISTING = "the cached listing"
    GIT = "the clone's commit"
    RECORD = "the hub client's record"
    SUMS = "SHA256SUMS"
    BLOB_NAME = "the blob's name"
    POINTER = "the LFS pointer that lies there"


class Promised(NamedTuple):
    """What a path should hold; `size` is None where nobody said it."""

    digest: Digest
    size: int | None
    evidence: Evidence


Promises: TypeAlias = Mapping[str, Promised]


class How(Enum):
    """What became of a question."""

    HASHED = "hashed"  # the whole digest matched, now
    LEDGER = "unchanged since proof"  # the ledger knows this inode, unchanged
    BLOCKS = "its blocks are unchanged since proof"  # every block's xxh3 is the one kept when it was proved
    UNASKED = "not hashed"  # a quick run, and nothing to compare with
    DIFFERS = "differs"
    UNREADABLE = "unreadable"
    CHANGED = "changed while it was read"


class Answer(NamedTuple):
    """What was found out about one file's bytes.

    Attributes:
        came: the hex digest that the bytes have, where it was computed.
        blocks: indexes of blocks that are not those of the proved file, where a block map told; else None.
        head: the first bytes, where they are not what was promised: a pointer, a web page?
        detail: the error, for people.
    """

    how: How
    came: str | None = None
    blocks: tuple[int, ...] | None = None
    head: bytes = b""
    detail: str | None = None

    @property
    def good(self) -> bool:
        """True where the bytes are, or still are, what they should be."""
        return self.how in _GOOD


_GOOD = (How.HASHED, How.LEDGER, How.BLOCKS)


class Question(NamedTuple):
    """A file whose bytes have to be held against a digest.

    Attributes:
        key: the path below the root of the survey; what the answer is filed under.
        where: absolute path of the bytes.
        state: theirs, as the survey saw it.
        digest: what they should have; None asks only what their first bytes look like.
        size: what the promise says; None where nobody said it.
    """

    key: str
    where: str
    state: State
    digest: Digest | None
    size: int | None = None


class Linked(NamedTuple):
    """A blob that is a symbolic link.

    Attributes:
        text: as it stands there.
        where: absolute path of the payload in the cache's shared store; None where it leads anywhere else.
        state: the payload's; None where it is absent or was not looked at.
        dangling: it leads out of the cache, to where nothing is.
    """

    text: str
    where: str | None = None
    state: State | None = None
    dangling: bool = False


class Lock(NamedTuple):
    """A lock file of the hub's client."""

    state: State
    held: bool


class Unfinished(NamedTuple):
    """A partial of ours.

    Attributes:
        name: its folder's name, `<digest key>` with perhaps a suffix.
        size: bytes on disk.
        landed: bytes that its journal vouches for, as far as it could be told without the file's size.
        alive: somebody may still be writing to it.
    """

    name: str
    size: int
    landed: int
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaFacts:
    """What lies in a `.fetchverify` folder besides the ledger.

    Attributes:
        temporaries: left by processes that are gone; path below the area to state.
        cut: digest keys whose links a repair cut off and did not restore.
        quarantined: name to state of each bad copy.
        block_maps: digest keys with a block map.
    """

    unfinished: tuple[Unfinished, ...] = ()
    temporaries: Mapping[str, State] = field(default_factory=dict)
    cut: tuple[str, ...] = ()
    quarantined: Mapping[str, State] = field(default_factory=dict)
    block_maps: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """One repo's folder in the hub's cache.

    Attributes:
        root: absolute path.
        now: Unix time of the survey, in seconds.
        has_snapshots: there is a `snapshots` folder.
        refs: name to commit; None where the file holds something else.
        snapshots: commit to the names below it, paths with `/`.
        folders: commit to what stands for its snapshot, where something does.
        blobs: name to state of everything in `blobs` that is neither a link nor an `incomplete`.
        blob_links: those that are links.
        incompletes: the hub's own partials.
        trees: commit to state of its cached listing.
        no_exist: commit to the paths that the hub's client was told do not exist.
        locks: name in `.locks` to the lock, where no blob of its name is here.
        locks_exclude: this kernel alone mounts the file system: a free lock has no holder anywhere.
        unreadable: path below root to why it could not be looked at.
        strange: names in the repo's folder that belong to nobody.
        obstacles: files where the hub's client takes nothing but folders.
        dangling: `snapshots/<commit>/<path>` of links out of the repo's blobs, to where nothing is.
    """

    root: str
    now: float
    has_snapshots: bool = True
    refs: Mapping[str, str | None] = field(default_factory=dict)
    snapshots: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    folders: Mapping[str, Folders] = field(default_factory=dict)
    blobs: Mapping[str, State] = field(default_factory=dict)
    blob_links: Mapping[str, Linked] = field(default_factory=dict)
    incompletes: Mapping[str, State] = field(default_factory=dict)
    trees: Mapping[str, State] = field(default_factory=dict)
    no_exist: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    locks: Mapping[str, Lock] = field(default_factory=dict)
    locks_exclude: bool = True
    unreadable: Mapping[str, str] = field(default_factory=dict)
    strange: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    dangling: frozenset[str] = frozenset()
    area: AreaFacts = field(default_factory=AreaFacts)


class Payload(NamedTuple):
    """One payload of the shared store; `refs` are the repos' blobs that its manifest names, None where unreadable."""

    state: State
    refs: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """The hub's blob store shared by all repos of a cache.

    Attributes:
        root: absolute path of `<cache>/blobs`.
        marked: the hub's marker is there; without it the hub does not use the store.
        payloads: Xet hash to payload.
        litter: path below root to state of what is no payload, lock or manifest.
    """

    root: str
    marked: bool = True
    payloads: Mapping[str, Payload] = field(default_factory=dict)
    litter: Mapping[str, State] = field(default_factory=dict)


class Record(NamedTuple):
    """The hub client's metadata of one file in a local directory."""

    commit: str
    etag: str
    moment: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """A plain folder with a repo's files.

    Attributes:
        root: absolute path.
        files: everything but book-keeping (ours, the hub's, git's); links are not followed.
        dangling: those links among them that lead nowhere.
        records: the hub client's, by path.
        trees: commit to state of its cached listing.
        refs: `(repo folder name, revision, commit)` of finished runs of ours.
        clone: it is a git work tree.
        incompletes: the hub's own partials, path below root to state.
    """

    root: str
    now: float
    files: Mapping[str, Entry] = field(default_factory=dict)
    dangling: frozenset[str] = frozenset()
    records: Mapping[str, Record] = field(default_factory=dict)
    trees: Mapping[str, State] = field(default_factory=dict)
    refs: tuple[tuple[str, str, str], ...] = ()
    clone: bool = False
    incompletes: Mapping[str, State] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    area: AreaFacts = field(default_factory=AreaFacts)


_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


def digest_of_name(name: str) -> Digest | None:
    """Return the digest that a blob's name (or an ETag) is; None where it is none."""
    if len(name) == 64 and _SHA256.fullmatch(name):
        return Digest(algo="sha256", hex=name)
    if len(name) == 40 and _SHA1.fullmatch(name):
        return Digest(algo="git-sha1", hex=name)
    return None


_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|\?xml[^>]*\?>\s*<Error)", re.I | re.S
)
HEAD_BYTES = LONGEST_POINTER  # enough to tell whether a file is one


def is_page(head: bytes) -> bool:
    """Return True where a file begins as a web page, or as the error that a CDN answers in XML."""
    return _PAGE.match(head) is not None
