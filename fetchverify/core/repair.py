"""What mends a repo's folder in a cache: findings to steps, at the cost of the damage; doing them is left to others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fetchverify.core.blocks import Tiling
from fetchverify.core.facts import Answer, CacheFacts, Promises, State
from fetchverify.core.findings import Finding, Kind, Rank
from fetchverify.core.manifest import Digest


class Act(Enum):
    """What to do; `value` is the word for it."""

    RESTORE = "restore"  # publish the path again: from a proved copy, from its good blocks, or from the Hub
    REBUILD = "rebuild"  # link a snapshot's names to the blobs that are there
    SET_ASIDE = "set aside"  # bad bytes that no name leads to, into quarantine
    PERMIT = "permit"  # give back permissions
    ASK_ANEW = "ask anew"  # a ref that names no commit
    REMOVE = "remove"
    REFER = "refer"  # tell the shared store who uses a payload
    CLOSE = "close"  # take away the permission to write to a shared payload
    MARK = "mark"  # the shared store


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do.

    Attributes:
        kind: what was found.
        key: the path below the repo's folder of what is mended or removed.
        path: in the repo, for people; else `key`.
        names: those that these bytes are read by, below the repo's folder (of a payload: below the cache).
        commit: whose listing says what the file is.
        digest: what the bytes should be.
        fetch: bytes that have to come over the network, at the most.
        frees: bytes.
        blocks: indexes of the damaged blocks; the others can be kept. None where nobody knows.
    """

    act: Act
    kind: Kind
    key: str
    path: str
    names: tuple[str, ...] = ()
    commit: str | None = None
    digest: Digest | None = None
    fetch: int = 0
    frees: int = 0
    blocks: tuple[int, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the step as a JSON object."""
        return {
            "act": self.act.name.lower(),
            "finding": self.kind.name.lower(),
            "path": self.path,
            "key": self.key,
            "commit": self.commit,
            "fetch": self.fetch,
            "frees": self.frees,
            "blocks": None if self.blocks is None else list(self.blocks),
        }


@dataclass(slots=True, kw_only=True)
class Repair:
    """All that is to be done in one repo's folder.

    Attributes:
        steps: in the order of the findings.
        left: damage that cannot be mended, each with why.
        bad: absolute paths whose bytes are known not to be what they should.
    """

    steps: list[Step] = field(default_factory=list)
    left: list[tuple[Finding, str]] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)

    def of(self, *acts: Act) -> list[Step]:
        """Return the steps of some acts."""
        return [step for step in self.steps if step.act in acts]

    @property
    def fetch(self) -> int:
        """Bytes to fetch."""
        return sum(step.fetch for step in self.steps)

    @property
    def frees(self) -> int:
        """Bytes that are freed."""
        return sum(step.frees for step in self.steps)


CLOSED = "permission denied"  # as a survey says of folders that it may not enter

# Damage to a file's bytes or names: it is published again, from whatever can be proved.
_FILES = frozenset(
    {Kind.CORRUPT, Kind.TRUNCATED, Kind.POINTER, Kind.PAGE, Kind.SPECIAL, Kind.MISSING, Kind.DANGLING}
    | {Kind.WRONG_TARGET}
)
_REMOVED = frozenset(
    {Kind.FALSE_NO_EXIST, Kind.BROKEN_LISTING, Kind.INCOMPLETE, Kind.STALE_LOCK, Kind.TEMPORARY, Kind.CUT_LINKS}
)
_REBUILT = frozenset({Kind.NOWHERE_REF, Kind.EMPTY_SNAPSHOT, Kind.NO_SNAPSHOTS})


def seen_state(facts: CacheFacts, key: str) -> State | None:
    """Return the state that a name had when it was looked at; None for what is no file, or has a state of no use."""
    folder, _, name = key.partition("/")
    if folder == "blobs":
        return facts.blobs.get(name) or facts.incompletes.get(name)
    if folder == "trees":
        return facts.trees.get(name.removesuffix(".json"))
    if folder == "..":
        lock = facts.locks.get(key.rpartition("/")[2])
        return None if lock is None else lock.state
    if folder == "snapshots":
        commit, _, path = name.partition("/")
        entry = facts.snapshots.get(commit, {}).get(path)
        return None if isinstance(entry, str) else entry
    return None


def good_blobs(facts: CacheFacts, answers: Mapping[str, Answer]) -> set[str]:
    """Return the names of the blobs whose bytes are proved."""
    return {
        name
        for name in (*facts.blobs, *facts.blob_links)
        if (answer := answers.get(f"blobs/{name}")) is not None and answer.good
    }


def plan_repair(
    facts: CacheFacts,
    findings: Iterable[Finding],
    promised: Mapping[str, Promises],
    answers: Mapping[str, Answer],
    *,
    offline: bool = False,
) -> Repair:
    """Return what mends one repo.

    Args:
        facts: the survey.
        findings: as `judge_cache` made them of it.
        promised: commit to what it holds.
        answers: by the questions' keys.
        offline: what needs the network is left.
    """
    repair, good = Repair(), good_blobs(facts, answers)
    planned: set[Digest] = set()
    for finding in findings:
        if finding.kind in _FILES:
            _plan_file(repair, facts, finding, promised, good, planned, offline=offline)
        elif finding.kind in _REMOVED:
            _plan_removal(repair, finding, promised, good, planned, offline=offline)
        elif finding.kind is Kind.DEAD_PARTIAL:
            # What landed was paid for: kept until the file is here.
            if finding.key.rpartition("/")[2].partition("-")[2].partition(".")[0] in good or not finding.size:
                _add(repair, Act.REMOVE, finding, frees=finding.size)
        elif finding.kind in _REBUILT:
            _add(repair, Act.REBUILD, finding)
        elif finding.kind is Kind.BROKEN_REF:
            _add(repair, Act.ASK_ANEW, finding)
        elif finding.kind is Kind.OBSTACLE:
            _add(repair, Act.SET_ASIDE, finding)
            if finding.key == "refs":  # without `main` the hub's client finds nothing offline
                main = Finding(kind=Kind.BROKEN_REF, path="refs/main", key="refs/main")
                _add(repair, Act.ASK_ANEW, main)
        elif finding.kind is Kind.WRONG_MODE or facts.unreadable.get(finding.key) == CLOSED:
            _add(repair, Act.PERMIT, finding)
        elif finding.kind is Kind.LOOSE_MODE:
            _add(repair, Act.CLOSE, finding)
        elif finding.kind is Kind.LOST_REFERENCE:
            _add(repair, Act.REFER, finding)
        elif finding.kind is Kind.UNMARKED_STORE:
            _add(repair, Act.MARK, finding)
        elif finding.kind.rank is Rank.DAMAGE:
            repair.left.append((finding, "it cannot be read"))
    return repair


def _add(repair: Repair, act: Act, finding: Finding, **more: Any) -> None:
    repair.steps.append(
        Step(
            act=act,
            kind=finding.kind,
            key=finding.key,
            path=finding.path,
            names=finding.names,
            commit=finding.commit,
            **more,
        )
    )


def _plan_file(
    repair: Repair,
    facts: CacheFacts,
    finding: Finding,
    promised: Mapping[str, Promises],
    good: set[str],
    planned: set[Digest],
    *,
    offline: bool,
) -> None:
    digest = finding.digest
    listing = promised.get(finding.commit or "")
    if finding.kind is Kind.DANGLING and not finding.names and listing is not None and finding.path not in listing:
        _add(repair, Act.REMOVE, finding)  # it leads nowhere, and the commit holds no such file
        return
    if finding.kind not in (Kind.MISSING, Kind.DANGLING, Kind.WRONG_TARGET):
        repair.bad.add(_where(facts, finding.key))
    wanted = list(_wanted(finding, promised))
    if not wanted:
        if finding.names or finding.commit is not None:
            repair.left.append((finding, "nothing says what it should be"))
        elif finding.kind is Kind.DANGLING:
            _add(repair, Act.REMOVE, finding)
        else:
            _add(repair, Act.SET_ASIDE, finding, digest=digest, frees=0)
        return
    there = digest is not None and digest.hex in good
    fetch = 0
    if not there and digest is not None and digest not in planned:
        fetch = _bytes_of(finding)
    if fetch and offline:
        repair.left.append((finding, "it has to be fetched, and the network may not be asked"))
        return
    if digest is not None:
        planned.add(digest)
    for number, (commit, path) in enumerate(wanted):
        repair.steps.append(
            Step(
                act=Act.RESTORE,
                kind=finding.kind,
                key=finding.key,
                path=path,
                names=finding.names,
                commit=commit,
                digest=digest,
                fetch=0 if number else fetch,
                blocks=finding.blocks,
            )
        )


def _where(facts: CacheFacts, key: str) -> str:
    """Return where the bytes behind a finding's key lie: a payload of the shared store is what a link leads to."""
    link = facts.blob_links.get(key.removeprefix("blobs/")) if key.startswith("blobs/") else None
    return f"{facts.root}/{key}" if link is None or link.where is None else link.where


def _wanted(finding: Finding, promised: Mapping[str, Promises]) -> Iterator[tuple[str, str]]:
    """Yield commit and path of each name of these bytes whose listing says what it is."""
    names = finding.names or ((f"snapshots/{finding.commit}/{finding.path}",) if finding.commit is not None else ())
    for name in names:
        parts = name.split("/", 2)
        if len(parts) == 3 and parts[0] == "snapshots" and parts[2] in promised.get(parts[1], {}):
            yield parts[1], parts[2]


def _bytes_of(finding: Finding) -> int:
    if not finding.blocks:
        return finding.size
    tiling = Tiling(size=finding.size)
    return sum(len(tiling.block(index)) for index in finding.blocks)


def _plan_removal(
    repair: Repair,
    finding: Finding,
    promised: Mapping[str, Promises],
    good: set[str],
    planned: set[Digest],
    *,
    offline: bool,
) -> None:
    if finding.kind is not Kind.CUT_LINKS:
        _add(repair, Act.REMOVE, finding, frees=finding.size)
        return
    # Names were taken from a bad blob: they come back with the good one.
    value = finding.key.rpartition("-")[2]
    for commit, files in promised.items():
        for path, promise in files.items():
            if promise.digest.hex == value:
                fetch = 0 if value in good or promise.digest in planned else promise.size or 0
                if fetch and offline:
                    repair.left.append((finding, "it has to be fetched, and the network may not be asked"))
                    return
                planned.add(promise.digest)
                repair.steps.append(
                    Step(
                        act=Act.RESTORE,
                        kind=finding.kind,
                        key=finding.key,
                        path=path,
                        commit=commit,
                        digest=promise.digest,
                        fetch=fetch,
                    )
                )
                return
    repair.left.append((finding, "nothing says what it should be"))
