"""What a verification says at its end: a `Place` for each repo or folder, one `VerifyReport` a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fetchverify.core.diagnosis.findings import Finding
from fetchverify.core.facts import Evidence, How
from fetchverify.core.findings import Kind, Rank, Verdict
from fetchverify.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One repo in a cache, the store that all share, or a folder.

    Attributes:
        target: absolute path of the repo's folder in the cache, or of the plain folder.
        in_cache: the former.
        repo_id: None where nothing says which repo it is.
        repo_type: `model`, `dataset` or `space`.
        commits: what was held against a promise.
        verdict: what was found.
        files: `(commit, path, evidence, how)` of each good file, where they were asked for.
        trouble: why the Hub could not be asked; then what lies here was the truth.
        weights: `(commit, path)` of what may be a model's weights, by its name.
    """

    target: str
    in_cache: bool
    repo_id: str | None
    repo_type: str | None
    commits: tuple[str, ...]
    verdict: Verdict
    files: tuple[tuple[str | None, str, Evidence, How], ...] = ()
    trouble: str | None = None
    weights: tuple[tuple[str | None, str], ...] = ()

    @property
    def remedy(self) -> str | None:
        """Return what to type to mend it; None where nobody knows which repo it is."""
        if self.repo_id is None:
            return None
        kind = "" if self.repo_type in (None, "model") else f" -t {self.repo_type}"
        if self.in_cache:
            return f"fetchverify fix-cache{kind} {self.repo_id}"
        return f"fetchverify get{kind} {self.repo_id} --to {self.target}"

    def as_json(self) -> dict[str, Any]:
        """Return the place as a JSON object; its findings and files are objects of their own."""
        verdict = self.verdict
        return {
            "target": self.target,
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "commits": list(self.commits),
            "files": verdict.files,
            "proved": sum(verdict.good.values()),
            "size": verdict.size,
            "evidence": {
                evidence.name.lower(): sum(n for (against, _), n in verdict.good.items() if against is evidence)
                for evidence in dict.fromkeys(against for against, _ in verdict.good)
            },
            "how": {
                how.name.lower(): sum(n for (_, by), n in verdict.good.items() if by is how)
                for how in dict.fromkeys(by for _, by in verdict.good)
            },
            "findings": len(verdict.findings),
            "remedy": self.remedy,
            "trouble": self.trouble,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """One run's end.

    Attributes:
        bytes_hashed: bytes that were read.
        sums: where SHA256SUMS was written, or None.
        broken: what is proved, and of no use: the repo itself holds it so.
        network: the exit code of the first repo of several that the Hub could not be asked about.
    """

    places: tuple[Place, ...]
    seconds: float
    files_hashed: int
    bytes_hashed: int
    requests: int
    strict: bool = False
    allow_missing: bool = False
    sums: str | None = None
    network: ExitCode = ExitCode.CLEAN
    notes: tuple[str, ...] = field(default=())
    broken: tuple[Finding, ...] = ()

    def fails(self, kind: Kind) -> bool:
        """Return whether a finding of this kind makes the run fail."""
        if kind is Kind.MISSING and self.allow_missing:
            return False
        return kind.rank is Rank.DAMAGE or (self.strict and kind.rank is Rank.UNPROVED)

    @property
    def exit_code(self) -> ExitCode:
        """Return what the findings amount to."""
        if any(self.fails(finding.kind) for place in self.places for finding in place.verdict.findings):
            return ExitCode.FINDINGS
        return self.network

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        return {
            "kind": "Report",
            "exit_code": int(self.exit_code),
            "places": [place.as_json() for place in self.places],
            "broken": [finding.as_json() for finding in self.broken],
            "seconds": self.seconds,
            "files_hashed": self.files_hashed,
            "bytes_hashed": self.bytes_hashed,
            "requests": self.requests,
            "sums": self.sums,
        }
