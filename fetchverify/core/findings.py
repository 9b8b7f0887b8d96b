"""Rules over facts: what is wrong on disk, held against what was promised; looking and hashing are left to others.

`cache_questions` and `folder_questions` say whose bytes must be looked at, `judge_cache`, `judge_store` and
`judge_folder` what follows from the answers.
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fetchverify.core.facts import (
    Answer,
    AreaFacts,
    CacheFacts,
    Entry,
    Evidence,
    FolderFacts,
    How,
    Promised,
    Promises,
    Question,
    State,
    StoreFacts,
    digest_of_name,
    is_page,
)
from fetchverify.core.manifest import Digest
from fetchverify.core.pointer import parse_pointer


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


def everything(path: str) -> bool:
    """Return True: no path is left out."""
    return True


# -- what must be looked at -------------------------------------------------------------------------------------


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
    inodes = _inodes(facts)
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


def _inodes(facts: CacheFacts) -> dict[tuple[int, int], str]:
    """Return which blob an inode is; empty where every name in the snapshots is a link, as a rule."""
    if not any(not isinstance(entry, str) for names in facts.snapshots.values() for entry in names.values()):
        return {}
    return {(state.st_dev, state.st_ino): name for name, state in facts.blobs.items()}


def _blobs_of(facts: CacheFacts, wanted: Callable[[str], bool]) -> set[str]:
    """Return the names of the blobs that wanted paths lead to."""
    inodes = _inodes(facts)
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


# -- links ------------------------------------------------------------------------------------------------------


def blob_behind(root: str, commit: str, path: str, text: str) -> str | None:
    """Return the name of the repo's blob that a snapshot's link leads to; None where it leads anywhere else."""
    # The hub's and ours, without a call more than needed: 100,000 of them.
    head, _, name = text.rpartition("/")
    if head == _UPWARDS.get(path.count("/")):
        return name or None
    if text.startswith("/"):
        place = posixpath.normpath(text)
    else:
        place = posixpath.normpath(posixpath.join(root, "snapshots", commit, posixpath.dirname(path), text))
    folder, _, name = place.rpartition("/")
    return name if folder == f"{root}/blobs" and name else None


_UPWARDS = {depth: "../" * (depth + 2) + "blobs" for depth in range(64)}


# -- judging ----------------------------------------------------------------------------------------------------


def _doubt(answer: Answer, state: State, digest: Digest, size: int | None) -> tuple[Kind, str | None]:
    """Return what to call bytes that are not what was promised."""
    if answer.how is How.UNREADABLE:
        return Kind.UNREADABLE, answer.detail
    if answer.how is How.CHANGED:
        return Kind.UNPROVED, "it changed while it was read"
    if answer.how is How.UNASKED:
        return Kind.UNPROVED, "it was not hashed: a quick run, and never proved before"
    pointer = parse_pointer(answer.head)
    if pointer is not None:
        same = pointer.digest == digest
        return Kind.POINTER, None if same else f"it points to sha256 `{pointer.sha256[:12]}…`"
    if is_page(answer.head):
        return Kind.PAGE, None
    if size is not None and state.st_size < size:
        return Kind.TRUNCATED, f"{state.st_size:,} of {size:,} bytes"
    if size is not None and state.st_size > size:
        return Kind.CORRUPT, f"{state.st_size - size:,} bytes too many"
    if answer.blocks:
        return Kind.CORRUPT, blocks_text(answer.blocks)
    return Kind.CORRUPT, None


def blocks_text(blocks: tuple[int, ...]) -> str:
    """Return `block 3` or `blocks 3, 7 and 8`, at most eight of them named."""
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    if len(blocks) > 8:
        return f"{len(blocks):,} blocks, from {blocks[0]} to {blocks[-1]}"
    return f"blocks {', '.join(map(str, blocks[:-1]))} and {blocks[-1]}"


class _Blob:
    """What is known of one blob's bytes; made only for those that are not good."""

    __slots__ = ("answer", "came", "detail", "kind", "names", "size", "wanted")

    def __init__(self, kind: Kind, detail: str | None, answer: Answer | None, size: int) -> None:
        self.kind, self.detail, self.answer, self.size = kind, detail, answer, size
        self.names: list[str] = []


def judge_cache(
    facts: CacheFacts,
    promised: Mapping[str, Promises],
    answers: Mapping[str, Answer],
    *,
    broken: Collection[str] = (),
    wanted: Callable[[str], bool] = everything,
    tell: Tell | None = None,
    known: Verdict | None = None,
) -> Verdict:
    """Return what is wrong in one repo's cache folder.

    Args:
        facts: the survey.
        promised: commit to what it holds; a commit of which nothing is known is absent.
        answers: by the questions' keys.
        broken: commits whose cached listing is damaged, or contradicts the Hub's.
        wanted: which paths of the repo matter; where some do not, litter is not looked for.
        tell: hears of every good file.
        known: what `judge_contents` said of the same; then nothing of it is judged here.
    """
    verdict = known or judge_contents(facts, promised, answers, wanted=wanted, tell=tell)
    _judge_refs(verdict, facts)
    for path, why in facts.unreadable.items():
        verdict.add(Kind.UNREADABLE, path, path, detail=why)
    for commit in broken:
        verdict.add(Kind.BROKEN_LISTING, f"trees/{commit}.json", f"trees/{commit}.json", commit=commit)
    if wanted is everything:
        _judge_litter(verdict, facts)
    return verdict


def judge_contents(
    facts: CacheFacts,
    promised: Mapping[str, Promises],
    answers: Mapping[str, Answer],
    *,
    wanted: Callable[[str], bool] = everything,
    tell: Tell | None = None,
) -> Verdict:
    """Return what is wrong with the snapshots and blobs; the arguments are those of `judge_cache`.

    It follows from names, states, listings and answers alone, so that it holds as long as they do; what hangs on the
    hour, on other processes or on single small files is left to `judge_cache`.
    """
    verdict = Verdict()
    blobs = _Blobs(facts, promised, answers)
    for commit, names in facts.snapshots.items():
        _judge_snapshot(verdict, facts, commit, names, promised.get(commit), blobs, answers, wanted, tell)
    verdict.findings += blobs.findings()
    verdict.size += blobs.good_bytes()
    _judge_no_exist(verdict, facts, promised, wanted)
    if wanted is everything:
        blobs.judge_unlinked(verdict)
    return verdict


class _Blobs:
    """The blobs of one repo: which are good, which names lead to them."""

    def __init__(self, facts: CacheFacts, promised: Mapping[str, Promises], answers: Mapping[str, Answer]) -> None:
        self._facts = facts
        self._answers = answers
        self._sizes = {p.digest.hex: p.size for files in promised.values() for p in files.values()}
        self._evidence = {p.digest.hex: p.evidence for files in promised.values() for p in files.values()}
        self._bad: dict[str, _Blob | None] = {}
        self._proof: dict[str, How] = {}
        self.led_to: set[str] = set()
        self.inodes = _inodes(facts)

    def state_of(self, name: str) -> State | None:
        """Return the state of a blob's bytes."""
        state = self._facts.blobs.get(name)
        if state is None and name in self._facts.blob_links:
            return self._facts.blob_links[name].state
        return state

    def look(self, name: str) -> How | _Blob | None:
        """Return how a blob was proved, what is wrong with it, or None where there is none."""
        self.led_to.add(name)
        proof = self._proof.get(name)
        if proof is not None:
            return proof
        if name in self._bad:
            return self._bad[name]
        found = self._find(name)
        if isinstance(found, How):
            self._proof[name] = found
        else:
            self._bad[name] = found
        return found

    def _find(self, name: str) -> How | _Blob | None:
        state = self._facts.blobs.get(name)
        if state is None:
            link = self._facts.blob_links.get(name)
            if link is None or link.dangling:
                return None
            if link.where is None:
                return _Blob(
                    Kind.UNPROVED, f"its blob is a link to `{link.text}`, outside the cache: not followed", None, 0
                )
            if link.state is None:
                return None
            state = link.state
        if not stat.S_ISREG(state.st_mode):
            return _Blob(Kind.SPECIAL, "its blob is no regular file", None, 0)
        answer = self._answers.get(f"blobs/{name}")
        digest = digest_of_name(name)
        size = self._sizes.get(name)
        if digest is None:
            return _Blob(Kind.UNPROVED, "its blob's name is no digest", answer, state.st_size)
        if size is not None and state.st_size != size:
            kind, detail = _doubt(answer or Answer(How.DIFFERS), state, digest, size)
            return _Blob(kind if kind is not Kind.UNPROVED else Kind.CORRUPT, detail, answer, size)
        if answer is None:
            return _Blob(Kind.UNPROVED, "it was not hashed", None, state.st_size)
        if not state.st_mode & stat.S_IRUSR:
            return _Blob(Kind.WRONG_MODE, "its owner may not read it", answer, state.st_size)
        if answer.good:
            return answer.how
        kind, detail = _doubt(answer, state, digest, size)
        return _Blob(kind, detail, answer, state.st_size)

    def good_bytes(self) -> int:
        """Return the bytes of the good blobs that names lead to."""
        return sum(state.st_size for name in self._proof if (state := self.state_of(name)) is not None)

    def findings(self) -> Iterator[Finding]:
        """Yield one finding for each blob that is not good and that names lead to."""
        for name, blob in self._bad.items():
            if blob is not None and blob.names:
                yield self._finding(name, blob)

    def _finding(self, name: str, blob: _Blob) -> Finding:
        answer = blob.answer
        first = blob.names[0] if blob.names else f"blobs/{name}"
        commit, path = None, first
        if first.startswith("snapshots/"):
            _, commit, path = first.split("/", 2)
        return Finding(
            kind=blob.kind,
            path=path,
            key=f"blobs/{name}",
            names=tuple(blob.names),
            size=blob.size,
            commit=commit,
            digest=digest_of_name(name),
            evidence=self._evidence.get(name, Evidence.BLOB_NAME),
            blocks=None if answer is None else answer.blocks,
            came=None if answer is None else answer.came,
            detail=blob.detail,
        )

    def judge_unlinked(self, verdict: Verdict) -> None:
        """Note the blobs that no name leads to, and which of them are bad besides."""
        for name in (*self._facts.blobs, *self._facts.blob_links):
            if name in self.led_to:
                continue
            found = self._find(name)
            if isinstance(found, How):
                state = self.state_of(name)
                verdict.add(
                    Kind.UNLINKED,
                    f"blobs/{name}",
                    f"blobs/{name}",
                    size=0 if state is None else state.st_size,
                    digest=digest_of_name(name),
                    evidence=Evidence.BLOB_NAME,
                )
            elif found is None:
                verdict.add(Kind.DANGLING, f"blobs/{name}", f"blobs/{name}", digest=digest_of_name(name))
            else:
                verdict.findings.append(self._finding(name, found))


def _judge_snapshot(
    verdict: Verdict,
    facts: CacheFacts,
    commit: str,
    names: Mapping[str, Entry],
    files: Promises | None,
    blobs: _Blobs,
    answers: Mapping[str, Answer],
    wanted: Callable[[str], bool],
    tell: Tell | None,
) -> None:
    if not names:
        verdict.add(Kind.EMPTY_SNAPSHOT, f"snapshots/{commit}", f"snapshots/{commit}", commit=commit)
        return
    good = verdict.good
    root = facts.root
    for path, entry in names.items():
        if wanted is not everything and not wanted(path):
            continue
        promise = None if files is None else files.get(path)
        key = f"snapshots/{commit}/{path}"
        if not isinstance(entry, str):
            verdict.files += 1
            _judge_copy(verdict, commit, path, key, entry, files, promise, blobs, answers, tell)
            continue
        name = blob_behind(root, commit, path, entry)
        if files is not None and promise is None:
            lost = key in facts.dangling if name is None else blobs.look(name) is None
            extra = Kind.DANGLING if lost else Kind.EXTRA
            verdict.add(extra, path, key, commit=commit, detail="the commit holds no such file")
            continue
        verdict.files += 1
        if name is None:
            detail = f"it leads to `{entry}`, outside the repo's blobs: not followed"
            unknown = Kind.DANGLING if key in facts.dangling else Kind.UNPROVED
            kind = Kind.WRONG_TARGET if promise is not None else unknown
            verdict.add(kind, path, key, commit=commit, detail=detail, **_of(promise))
            continue
        found = blobs.look(name)
        if promise is not None and promise.digest.hex != name:
            kind = Kind.WRONG_TARGET if found is not None else Kind.DANGLING
            there = "" if found is not None else ", which is not there"
            detail = f"it leads to the blob `{name[:12]}…`{there}; its own is `{promise.digest.hex[:12]}…`"
            verdict.add(kind, path, key, commit=commit, detail=detail, **_of(promise))
        elif found is None:
            verdict.add(Kind.DANGLING, path, key, commit=commit, **_of(promise or _by_name(name)))
        elif isinstance(found, How):
            evidence = Evidence.BLOB_NAME if promise is None else promise.evidence
            good[evidence, found] += 1
            if tell is not None:
                tell(commit, path, evidence, found)
        else:
            found.names.append(key)
    if files is not None:
        for path, promise in files.items():
            if path not in names and (wanted is everything or wanted(path)):
                verdict.files += 1
                verdict.add(Kind.MISSING, path, f"snapshots/{commit}/{path}", commit=commit, **_of(promise))


def _by_name(name: str) -> Promised | None:
    digest = digest_of_name(name)
    return None if digest is None else Promised(digest, None, Evidence.BLOB_NAME)


def _of(promise: Promised | None) -> dict[str, Any]:
    if promise is None:
        return {}
    return {"digest": promise.digest, "size": promise.size or 0, "evidence": promise.evidence}


def _judge_copy(
    verdict: Verdict,
    commit: str,
    path: str,
    key: str,
    entry: State,
    files: Promises | None,
    promise: Promised | None,
    blobs: _Blobs,
    answers: Mapping[str, Answer],
    tell: Tell | None,
) -> None:
    """Judge a snapshot's name that is no link: a hardlink to a blob, a copy where links are not to be had."""
    if files is not None and promise is None:
        verdict.add(Kind.EXTRA, path, key, commit=commit, size=entry.st_size, detail="the commit holds no such file")
        return
    if not stat.S_ISREG(entry.st_mode):
        verdict.add(Kind.SPECIAL, path, key, commit=commit, **_of(promise))
        return
    blob = blobs.inodes.get((entry.st_dev, entry.st_ino))
    if blob is not None and (promise is None or blob == promise.digest.hex):
        found = blobs.look(blob)
        if isinstance(found, How):
            evidence = Evidence.BLOB_NAME if promise is None else promise.evidence
            verdict.good[evidence, found] += 1
            if tell is not None:
                tell(commit, path, evidence, found)
        elif found is not None:
            found.names.append(key)
        return
    if promise is None:
        verdict.add(Kind.UNPROVED, path, key, commit=commit, size=entry.st_size, detail="nothing here says what it is")
        return
    _judge_bytes(verdict, commit, path, key, entry, promise, answers.get(key), tell)


def _judge_bytes(
    verdict: Verdict,
    commit: str | None,
    path: str,
    key: str,
    entry: State,
    promise: Promised,
    answer: Answer | None,
    tell: Tell | None,
) -> None:
    right_size = promise.size is None or entry.st_size == promise.size
    if answer is not None and answer.good and right_size:
        verdict.good[promise.evidence, answer.how] += 1
        verdict.size += entry.st_size
        if tell is not None:
            tell(commit, path, promise.evidence, answer.how)
        return
    if answer is None:
        answer = Answer(How.UNASKED if right_size else How.DIFFERS)
    if not right_size and answer.how in (How.UNASKED, How.HASHED, How.LEDGER, How.BLOCKS):
        answer = answer._replace(how=How.DIFFERS)
    kind, detail = _doubt(answer, entry, promise.digest, promise.size)
    verdict.add(
        kind,
        path,
        key,
        names=(key,),
        commit=commit,
        digest=promise.digest,
        size=promise.size or entry.st_size,
        evidence=promise.evidence,
        blocks=answer.blocks,
        came=answer.came,
        detail=detail,
    )


def _judge_refs(verdict: Verdict, facts: CacheFacts) -> None:
    if not facts.has_snapshots:
        verdict.add(Kind.NO_SNAPSHOTS, "snapshots", "snapshots", detail="the hub's tools drop the whole repo")
    for name in facts.obstacles:
        verdict.add(Kind.OBSTACLE, name, name, detail="the hub's client takes it for a folder")
    for name, commit in facts.refs.items():
        key = f"refs/{name}"
        if commit is None:
            verdict.add(Kind.BROKEN_REF, key, key)
        elif commit not in facts.snapshots:
            verdict.add(Kind.NOWHERE_REF, key, key, commit=commit, detail=f"it names `{commit}`")


def _judge_no_exist(
    verdict: Verdict, facts: CacheFacts, promised: Mapping[str, Promises], wanted: Callable[[str], bool]
) -> None:
    for commit, paths in facts.no_exist.items():
        files: Mapping[str, object] = promised.get(commit) or facts.snapshots.get(commit, {})
        for path in paths:
            if path in files and wanted(path):
                verdict.add(Kind.FALSE_NO_EXIST, path, f".no_exist/{commit}/{path}", commit=commit)


_ORPHAN_S = 24 * 3600.0  # where locks prove nothing: nobody downloads a file for a day without writing to it


def _judge_litter(verdict: Verdict, facts: CacheFacts) -> None:
    for name, state in facts.incompletes.items():
        lock = facts.locks.get(f"{name.split('.')[0]}.lock")
        idle_s = facts.now - state.st_mtime_ns / 1e9
        if (lock is None or not lock.held) and (facts.locks_exclude or idle_s > _ORPHAN_S):
            verdict.add(Kind.INCOMPLETE, f"blobs/{name}", f"blobs/{name}", size=state.st_size)
    for name, lock in facts.locks.items():
        idle_s = facts.now - lock.state.st_mtime_ns / 1e9
        if not lock.held and idle_s > _ORPHAN_S:
            verdict.add(Kind.STALE_LOCK, f".locks/{name}", f"../.locks/{posixpath.basename(facts.root)}/{name}")
    for name in facts.strange:
        verdict.add(Kind.STRANGE, name, name)
    _judge_area(verdict, facts.area)


def _judge_area(verdict: Verdict, area: AreaFacts) -> None:
    for one in area.unfinished:
        if not one.alive:
            key = f".fetchverify/partial/{one.name}"
            detail = "the next `get` goes on with it"
            verdict.add(Kind.DEAD_PARTIAL, key, key, size=one.size, detail=detail)
    for name, state in area.temporaries.items():
        verdict.add(Kind.TEMPORARY, f".fetchverify/{name}", f".fetchverify/{name}", size=state.st_size)
    for name in area.cut:
        key = f".fetchverify/relink/{name}"
        verdict.add(Kind.CUT_LINKS, key, key, detail="links to a bad blob were taken away, and not given back")
    for name, state in area.quarantined.items():
        key = f".fetchverify/quarantine/{name}"
        verdict.add(Kind.QUARANTINED, key, key, size=state.st_size)


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


def judge_folder(
    facts: FolderFacts,
    promises: Promises,
    answers: Mapping[str, Answer],
    *,
    complete: bool,
    broken: Collection[str] = (),
    wanted: Callable[[str], bool] = everything,
    tell: Tell | None = None,
) -> Verdict:
    """Return what is wrong in a plain folder.

    Args:
        facts: the survey.
        promises: what is known of each path.
        answers: by the questions' keys.
        complete: the promises are a whole listing: what it does not hold is not the repo's.
        broken: commits whose cached listing is damaged.
        wanted: which paths of the repo matter; where some do not, litter is not looked for.
        tell: hears of every good file.
    """
    verdict = Verdict()
    for path, entry in facts.files.items():
        if not wanted(path):
            continue
        promise = promises.get(path)
        if promise is None:
            _judge_unknown(verdict, path, entry, answers.get(path), complete=complete)
            continue
        verdict.files += 1
        if isinstance(entry, str):
            _judge_link(verdict, path, entry, promise, dangling=path in facts.dangling, tell=tell)
        elif not stat.S_ISREG(entry.st_mode):
            verdict.add(Kind.SPECIAL, path, path, **_of(promise))
        else:
            _judge_bytes(verdict, None, path, path, entry, promise, answers.get(path), tell)
    for path, promise in promises.items():
        if path not in facts.files and wanted(path):
            verdict.files += 1
            verdict.add(Kind.MISSING, path, path, **_of(promise))
    for path, why in facts.unreadable.items():
        verdict.add(Kind.UNREADABLE, path, path, detail=why)
    for commit in broken:
        key = f".cache/huggingface/trees/{commit}.json"
        verdict.add(Kind.BROKEN_LISTING, key, key, commit=commit)
    if wanted is everything:
        for path, state in facts.incompletes.items():
            if facts.now - state.st_mtime_ns / 1e9 > _ORPHAN_S:
                verdict.add(Kind.INCOMPLETE, path, path, size=state.st_size)
        _judge_area(verdict, facts.area)
    return verdict


def _judge_unknown(verdict: Verdict, path: str, entry: Entry, answer: Answer | None, *, complete: bool) -> None:
    """Judge a name that nobody promised."""
    pointer = None if answer is None else parse_pointer(answer.head)
    if complete:
        size = 0 if isinstance(entry, str) else entry.st_size
        verdict.add(Kind.EXTRA, path, path, size=size)
        return
    verdict.files += 1
    if pointer is not None:
        promised = _of(Promised(pointer.digest, pointer.size, Evidence.POINTER))
        verdict.add(Kind.POINTER, path, path, names=(path,), **promised)
    elif isinstance(entry, str):
        verdict.add(Kind.UNPROVED, path, path, detail=f"a link to `{entry}`: not followed")
    else:
        verdict.add(Kind.UNPROVED, path, path, size=entry.st_size, detail="nothing here says what it is")


def _judge_link(
    verdict: Verdict, path: str, text: str, promise: Promised, *, dangling: bool, tell: Tell | None
) -> None:
    data = text.encode("utf-8", "surrogateescape")
    # git keeps a link as a blob of its text.
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if promise.digest == Digest(algo="git-sha1", hex=oid):
        verdict.good[promise.evidence, How.HASHED] += 1
        if tell is not None:
            tell(None, path, promise.evidence, How.HASHED)
    elif dangling:
        verdict.add(Kind.DANGLING, path, path, names=(path,), detail=f"it leads to `{text}`", **_of(promise))
    else:
        detail = f"a link to `{text}`: not followed"
        verdict.add(Kind.UNPROVED, path, path, names=(path,), detail=detail, **_of(promise))
