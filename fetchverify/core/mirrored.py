"""What a run of `mirror sync` did, revision by revision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fetchverify.core.manifest import Commit, RepoRef
from fetchverify.errors import ExitCode


class Fate(Enum):
    """How a run ended for one revision."""

    FRESH = "fresh"
    CHANGED = "changed"  # readers see another commit, or more of it
    MENDED = "mended"  # bad bytes were found here, and replaced
    DUE = "due"  # another commit is there; a dry run fetches nothing
    POSTPONED = "postponed"  # the window is closed
    RESTING = "resting"  # it failed often, and is tried less often now
    UNREACHED = "unreached"  # the endpoint did not answer anybody
    FAILED = "failed"
    GONE = "gone"  # not there upstream; what lies here is kept
    PURGED = "purged"

    @property
    def is_bad(self) -> bool:
        """True where readers may not see what the Hub has."""
        return self in (Fate.RESTING, Fate.UNREACHED, Fate.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One revision's end.

    Attributes:
        before: what readers saw.
        after: what they see now.
        fetched: bytes received for it over the network.
        failures: runs in a row that failed.
        news: False where an earlier run said the same.
    """

    ref: RepoRef
    fate: Fate
    before: Commit | None = None
    after: Commit | None = None
    path: str | None = None
    fetched: int = 0
    failures: int = 0
    detail: str | None = None
    hint: str | None = None
    news: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "repo_type": self.ref.kind,
            "repo_id": self.ref.repo_id,
            "revision": self.ref.revision,
            "fate": self.fate.value,
            "before": self.before,
            "after": self.after,
            "path": self.path,
            "fetched": self.fetched,
            "failures": self.failures,
            "detail": self.detail,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """One run's end.

    Attributes:
        requests: metadata requests; those of downloads come on top.
        notes: what people should know besides.
        prometheus: where the config wants metrics to be written.
    """

    folder: str
    done: tuple[Done, ...]
    seconds: float
    requests: int = 0
    notes: tuple[str, ...] = ()
    prometheus: str | None = None

    def count(self, fates: Iterable[Fate]) -> int:
        """Return how many revisions ended so."""
        wanted = set(fates)
        return sum(one.fate in wanted for one in self.done)

    @property
    def exit_code(self) -> ExitCode:
        """0 where readers see what the Hub has, else 1."""
        return ExitCode.FINDINGS if any(one.fate.is_bad for one in self.done) else ExitCode.CLEAN

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        return {
            "kind": "SyncReport",
            "exit_code": int(self.exit_code),
            "folder": self.folder,
            "repos": [one.as_json() for one in self.done],
            "requests": self.requests,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }
