"""What a mirror knows of each revision it keeps: what happened when, and when to try again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast, get_args

from fetchverify.core.manifest import Commit, RepoKind, RepoRef
from fetchverify.core.reference import is_repo_id
from fetchverify.core.tree import is_commit

VERSION = 1
_PATIENT_FAILURES = 5
_FIRST_DELAY_S, _MOST_DELAY_S = 3600.0, 86400.0
# A day, and answers: a clock that jumps makes a day of a minute.
_GONE_S, _GONE_ANSWERS = 86400.0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoState:
    """One revision of one repo; times are Unix seconds, 0 for never.

    Attributes:
        commit: what readers see; published whole.
        commits: those that lie here, the newest last.
        selection: which files of it were asked for, as a digest of the patterns.
        etag: names the Hub's last answer, for a conditional request.
        checked: when the Hub last said where the revision stands.
        succeeded: when what lies here was last known to be what the Hub has.
        changed: when another commit was last published.
        failures: runs in a row that failed.
        error: why the last one did.
        next_try: not before; after many failures it is tried less often.
        gone_since: since when the Hub says that it is not there.
        gone_answers: how many runs in a row it said so to.
        renamed_to: the name under which the Hub knows it now.
        damaged: commits in which bad bytes were found; they are mended by the next run.
        bytes: of the files that were asked for.
        fetched: bytes received for it over the network, in all runs.
    """

    ref: RepoRef
    commit: Commit | None = None
    commits: tuple[Commit, ...] = ()
    selection: str = ""
    etag: str | None = None
    checked: float = 0.0
    succeeded: float = 0.0
    changed: float = 0.0
    failures: int = 0
    error: str | None = None
    next_try: float = 0.0
    gone_since: float = 0.0
    gone_answers: int = 0
    renamed_to: str | None = None
    damaged: tuple[Commit, ...] = ()
    files: int = 0
    bytes: int = 0
    fetched: int = 0

    def is_due(self, now: float) -> bool:
        """Return whether to ask the Hub again; a clock that was set back makes nobody wait."""
        return not now < self.next_try <= now + _MOST_DELAY_S

    def may_purge(self, now: float) -> bool:
        """Return whether the Hub has said for a day that it is not there: one wrong answer must not empty a mirror."""
        return 0 < self.gone_since <= now - _GONE_S and self.gone_answers >= _GONE_ANSWERS

    def seen_fresh(self, now: float, *, etag: str | None, renamed_to: str | None) -> RepoState:
        """Return the state after the Hub said that nothing moved."""
        return replace(
            self,
            etag=etag,
            checked=now,
            succeeded=now,
            failures=0,
            error=None,
            next_try=0.0,
            gone_since=0.0,
            gone_answers=0,
            renamed_to=renamed_to,
        )

    def moved(self, now: float, *, renamed_to: str | None) -> RepoState:
        """Return the state after the Hub named another commit; it is not here yet, nor what its ETag would name."""
        return replace(self, etag=None, checked=now, renamed_to=renamed_to, gone_since=0.0, gone_answers=0)

    def published(self, now: float, commit: Commit, *, selection: str, files: int, size: int) -> RepoState:
        """Return the state after a commit was published whole, which is also how damage ends."""
        return replace(
            self.seen_fresh(now, etag=self.etag, renamed_to=self.renamed_to),
            commit=commit,
            commits=(*(each for each in self.commits if each != commit), commit),
            selection=selection,
            changed=self.changed if commit == self.commit else now,
            damaged=tuple(each for each in self.damaged if each != commit),
            files=files,
            bytes=size,
        )

    def missed(self, now: float, error: str) -> RepoState:
        """Return the state after the Hub said that it is not there; what lies here stays, and is no failure."""
        since = min(self.gone_since or now, now)  # a clock that was ahead then would put it off for years
        answers = self.gone_answers + 1
        return replace(self, gone_since=since, gone_answers=answers, error=error, failures=0, next_try=0.0, etag=None)

    def unheard(self, error: str) -> RepoState:
        """Return the state after nobody could be asked: no fault of the repo's, and no reason to wait."""
        return replace(self, error=error)

    def failed(self, now: float, error: str) -> RepoState:
        """Return the state after a run failed."""
        failures = self.failures + 1
        wait_s = 0.0
        if failures >= _PATIENT_FAILURES:
            # Capped before it is raised: the count has no bound.
            wait_s = min(_FIRST_DELAY_S * 2 ** min(failures - _PATIENT_FAILURES, 10), _MOST_DELAY_S)
        return replace(
            self,
            failures=failures,
            error=error,
            next_try=now + wait_s if wait_s else 0.0,
            gone_since=0.0,
            gone_answers=0,
            etag=None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        body = asdict(self)
        body.update(body.pop("ref"))
        body["type"] = body.pop("kind")
        return body


def render(states: Iterable[RepoState]) -> Iterator[str]:
    """Yield the lines of a state file, one revision a line: a mirror may have a hundred thousand."""
    yield json.dumps({"version": VERSION}) + "\n"
    for state in states:
        yield json.dumps(state.as_json()) + "\n"


def parse(lines: Iterable[str]) -> dict[RepoRef, RepoState]:
    """Return what a state file says; what it does not say well is left out: the disk and the Hub know it, too."""
    every = iter(lines)
    head = _object(next(every, ""))
    if head is None or head.get("version") != VERSION:
        return {}
    states = (_state(body) for line in every if (body := _object(line)) is not None)
    return {state.ref: state for state in states if state is not None}


def _object(line: str) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _state(body: Mapping[str, Any]) -> RepoState | None:
    kind, repo_id, revision = (body.get(key) for key in ("type", "repo_id", "revision"))
    if not isinstance(repo_id, str) or not isinstance(revision, str) or not revision:
        return None
    account = repo_id.removesuffix("/*")
    if not is_repo_id(account) or (account != repo_id and "/" in account):
        return None
    if kind not in get_args(RepoKind):
        return None
    ref = RepoRef(kind=cast("RepoKind", sys.intern(str(kind))), repo_id=repo_id, revision=sys.intern(revision))
    values: dict[str, Any] = {}
    commits: dict[str, str] = {}  # one text for all mentions of a commit
    for field in fields(RepoState):
        value = body.get(field.name)
        if field.name == "ref" or not _fits(field.name, str(field.type), value):
            continue
        if isinstance(value, list):
            values[field.name] = tuple(commits.setdefault(one, one) for one in value)
        elif field.name == "commit":
            values[field.name] = commits.setdefault(str(value), str(value))
        else:
            values[field.name] = sys.intern(str(value)) if field.name == "selection" else value  # a few for all repos
    return RepoState(ref=ref, **values)


def _fits(name: str, kind: str, value: Any) -> bool:
    match kind:
        case "Commit | None":
            return isinstance(value, str) and is_commit(value)
        case "tuple[Commit, ...]":
            return isinstance(value, list) and all(isinstance(one, str) and is_commit(one) for one in value)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
        case "int":
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return isinstance(value, str)
