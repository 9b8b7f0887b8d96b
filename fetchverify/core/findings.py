"""What is wrong, as values: kinds, findings and the verdict they add up to; judging is left to `core.judging`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fetchverify.core.facts import Evidence, How
from fetchverify.core.manifest import Digest


class Kind(Enum):
    """What is wrong with a name; `value` completes "it is ..."."""

    CORRUPT = "corrupt"
    TRUNCATED = "truncated"
    POINTER = "an LFS pointer, not the content"
    PAGE = "a web page, not the content"
    MISSING = "missing"
    DANGLING = "a dangling link"
    WRONG_TARGET = "linked to another file's bytes"
    SPECIAL = "no regular file"
    UNREADABLE = "unreadable"
    WRONG_MODE = "of wrong permissions"
    NOWHERE_REF = "a ref to a snapshot that is not there"
    BROKEN_REF = "a ref without a commit"
    EMPTY_SNAPSHOT = "a snapshot without files"
    NO_SNAPSHOTS = "without a folder of snapshots"
    OBSTACLE = "a file where a folder belongs"
    FALSE_NO_EXIST = "noted as not existing, which it does"
    BROKEN_LISTING = "a damaged listing"
    LOST_REFERENCE = "a shared blob that does not know its user"
    LOOSE_MODE = "a shared blob that can be written to"
    UNPROVED = "unproved"
    EXTRA = "not in the repo"
    UNLINKED = "a blob without link"
    INCOMPLETE = "an orphaned download of the hub's client"
    STALE_LOCK = "a lock that nobody holds"
    DEAD_PARTIAL = "an unfinished download of ours"
    TEMPORARY = "a temporary file of a process that is gone"
    CUT_LINKS = "a repair that was interrupted"
    QUARANTINED = "a bad copy in quarantine"
    ORPHAN_PAYLOAD = "a shared blob without users"
    UNMARKED_STORE = "a shared store without its marker"
    STRANGE = "nobody's"

    @property
    def rank(self) -> Rank:
        """How grave it is."""
        if self is Kind.UNPROVED:
            return Rank.UNPROVED
        return Rank.LITTER if self in _LITTER else Rank.DAMAGE


class Rank(Enum):
    """How grave a finding is: damage ends in exit code 1, what is unproved does with `--strict`, litter never."""

    DAMAGE = "damage"
    UNPROVED = "unproved"
    LITTER = "litter"


_LITTER = frozenset(
    {Kind.EXTRA, Kind.UNLINKED, Kind.INCOMPLETE, Kind.STALE_LOCK, Kind.DEAD_PARTIAL, Kind.TEMPORARY}
    | {Kind.LOOSE_MODE, Kind.QUARANTINED, Kind.ORPHAN_PAYLOAD, Kind.UNMARKED_STORE, Kind.STRANGE}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        path: for people: the path in the repo, else the one below the survey's root.
        key: the path below the survey's root of what has to be mended or removed.
        names: every path below the root that readers reach these bytes by; empty where nobody does.
        size: bytes of the promised file; of litter, the bytes that removing it frees.
        commit: the snapshot, where one is concerned.
        digest: what was promised.
        evidence: who promised it.
        blocks: indexes of damaged blocks (8 MiB each), where a block map told.
        came: the hex digest of what lies there, where it was computed.
        detail: more, for people.
    """

    kind: Kind
    path: str
    key: str
    names: tuple[str, ...] = ()
    size: int = 0
    commit: str | None = None
    digest: Digest | None = None
    evidence: Evidence | None = None
    blocks: tuple[int, ...] | None = None
    came: str | None = None
    detail: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the finding as one JSON object."""
        return {
            "finding": self.kind.name.lower(),
            "rank": self.kind.rank.value,
            "path": self.path,
            "key": self.key,
            "names": list(self.names),
            "size": self.size,
            "commit": self.commit,
            "digest": None if self.digest is None else f"{self.digest.algo}:{self.digest.hex}",
            "evidence": None if self.evidence is None else self.evidence.value,
            "blocks": None if self.blocks is None else list(self.blocks),
            "came": self.came,
            "detail": self.detail,
        }


# How a good file was proved: against what, and whether now or unchanged since.
Proof = tuple[Evidence, How]
# Called for each file that is good, with its commit (None in a folder), path and proof.
Tell = Callable[[str | None, str, Evidence, How], None]


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What follows from the facts.

    Attributes:
        findings: damage in the order of the paths, then the rest.
        good: how many files were proved, by how.
        files: how many were looked at, good or not.
        size: bytes of the good ones; a blob of several paths counts once.
    """

    findings: list[Finding] = field(default_factory=list)
    good: Counter[Proof] = field(default_factory=Counter)
    files: int = 0
    size: int = 0

    def of_rank(self, rank: Rank) -> list[Finding]:
        """Return the findings of one rank."""
        return [finding for finding in self.findings if finding.kind.rank is rank]

    def add(self, kind: Kind, path: str, key: str, **more: Any) -> None:
        """Note one finding."""
        self.findings.append(Finding(kind=kind, path=path, key=key, **more))
