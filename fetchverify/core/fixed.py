"""What `fix-cache` says at its end: a `FixedPlace` for each repo, one `FixReport` a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fetchverify.core.findings import Finding, Rank
from fetchverify.core.purge import Purge
from fetchverify.core.repair import Step
from fetchverify.core.report import Outcome
from fetchverify.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPlace:
    """One repo in the cache, or the store that all share.

    Attributes:
        name: the repo's id, else the folder's name.
        steps: what was done; in a dry run, what would be.
        left: damage that is still there, each with why.
        outcomes: of the files that were published again.
        purged: what was removed because it was asked for.
    """

    name: str
    repo_type: str | None
    target: str
    steps: tuple[Step, ...]
    left: tuple[tuple[Finding, str], ...]
    outcomes: tuple[Outcome, ...] = ()
    purged: tuple[Purge, ...] = ()

    @property
    def fetch(self) -> int:
        """Bytes to fetch, at the most."""
        return sum(step.fetch for step in self.steps)

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 where damage is left, else 0."""
        damaged = any(finding.kind.rank is Rank.DAMAGE for finding, _ in self.left)
        return ExitCode.FINDINGS if damaged else ExitCode.CLEAN

    def as_json(self) -> dict[str, Any]:
        """Return the place as a JSON object."""
        return {
            "repo_id": self.name,
            "repo_type": self.repo_type,
            "target": self.target,
            "steps": [step.as_json() for step in self.steps],
            "left": [{**finding.as_json(), "why": why} for finding, why in self.left],
            "purged": [purge.as_json() for purge in self.purged],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FixReport:
    """One run's end; sizes in bytes.

    Attributes:
        dry_run: nothing was done.
        network: the exit code of the first repo that the Hub could not be asked about.
    """

    places: tuple[FixedPlace, ...]
    dry_run: bool
    bytes_fetched: int
    bytes_freed: int
    seconds: float
    requests: int
    network: ExitCode = ExitCode.CLEAN

    @property
    def exit_code(self) -> ExitCode:
        """Return 0 where the cache is whole now, 1 where damage is left (or, in a dry run, found)."""
        if any(place.exit_code for place in self.places):
            return ExitCode.FINDINGS
        if self.dry_run and any(step.kind.rank is Rank.DAMAGE for place in self.places for step in place.steps):
            return ExitCode.FINDINGS
        return self.network

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        return {
            "kind": "Report",
            "exit_code": int(self.exit_code),
            "dry_run": self.dry_run,
            "places": [place.as_json() for place in self.places],
            "bytes_to_fetch": sum(place.fetch for place in self.places),
            "bytes_fetched": self.bytes_fetched,
            "bytes_freed": self.bytes_freed,
            "seconds": self.seconds,
            "requests": self.requests,
        }
