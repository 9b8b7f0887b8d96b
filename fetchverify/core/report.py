"""What a run says at its end: an `Outcome` a file, one `Report` a run; showing them is left to `sinks`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from fetchverify.errors import ExitCode

if TYPE_CHECKING:
    from fetchverify.core.diagnosis.findings import Finding


class OutcomeKind(Enum):
    """How one file ended."""

    KEPT = "kept"  # was there and proved
    LINKED = "linked"  # the bytes were there under another name
    COPIED = "copied"
    FETCHED = "fetched"
    REFETCHED = "refetched"  # bad bytes came first, were quarantined, and good ones after
    CORRUPT = "corrupt"  # bad bytes, always; nothing published
    CONTRADICTED = "contradicted"  # the server's own statements differ
    ABSENT = "absent"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"  # the target could not take it safely

    @property
    def exit_code(self) -> ExitCode:
        """What this outcome alone means for the run."""
        return _EXITS.get(self, ExitCode.CLEAN)


_EXITS = {
    OutcomeKind.CORRUPT: ExitCode.FINDINGS,
    OutcomeKind.CONTRADICTED: ExitCode.FINDINGS,
    OutcomeKind.REFUSED: ExitCode.FINDINGS,
    OutcomeKind.ABSENT: ExitCode.ABSENT,
    OutcomeKind.DENIED: ExitCode.ABSENT,
    OutcomeKind.UNREACHABLE: ExitCode.NETWORK,
}
# What the caller can do nothing about outranks what waiting may mend.
_RANK = (ExitCode.DISK, ExitCode.FINDINGS, ExitCode.ABSENT, ExitCode.NETWORK, ExitCode.CLEAN)


def gravest_code(codes: Iterable[int]) -> ExitCode:
    """Return what several ends amount to."""
    seen = set(codes)
    return next(code for code in _RANK if code in seen or code is ExitCode.CLEAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One file's end; `fetched` counts bytes received over the network for it, good or bad."""

    path: str
    size: int
    kind: OutcomeKind
    fetched: int = 0
    detail: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run's end.

    Attributes:
        target: the snapshot folder, or DIR with `--to`.
        changed: False when everything was there already.
        published: False while at least one selected file is missing: then the ref did not move.
        quarantined: bad copies that lie in quarantine, of this run and earlier ones.
        liars: endpoints that sent bytes which are not the file, where several were named; they were left out.
        findings: what is broken in the repo itself: proved to be what it promises, and of no use.
    """

    repo_id: str
    kind: str
    revision: str
    commit: str
    target: str
    outcomes: tuple[Outcome, ...]
    bytes_fetched: int
    seconds: float
    requests: int
    retries: int
    quarantined: int
    changed: bool
    published: bool
    liars: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Return the gravest outcome's exit code."""
        return gravest_code(outcome.kind.exit_code for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object; `kind` is `Report`, as events have theirs."""
        body = asdict(self)
        body["repo_type"] = body.pop("kind")
        for outcome, value in zip(body["outcomes"], self.outcomes, strict=True):
            outcome["kind"] = value.kind.value
        body["findings"] = [finding.as_json() for finding in self.findings]
        return {"kind": "Report", "exit_code": int(self.exit_code), **body}
