"""The words at a run's end: summary, failures, a dry run's table; printing them is left to the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fetchverify.core.diagnosis.findings import Finding
from fetchverify.core.report import Outcome, OutcomeKind, Report
from fetchverify.errors import ExitCode
from fetchverify.sinks import human

_MOST_FAILURES = 20

_HINTS = {
    OutcomeKind.CORRUPT: "the server sends bad bytes; try another one with `--endpoint`",
    OutcomeKind.CONTRADICTED: "the server contradicts itself; try another one with `--endpoint`",
    OutcomeKind.ABSENT: "check the name and `--revision`; `--dry-run` lists what there is",
    OutcomeKind.DENIED: "ask for access on the repo's page, then give a token: `--token-file`, or `HF_TOKEN`",
    OutcomeKind.UNREACHABLE: "run the same command again later: what arrived is kept",
    OutcomeKind.REFUSED: "remove what is in the way, or choose another folder with `--to`",
}


def failure(outcome: Outcome) -> str:
    """Return the block that says what happened to one file, and what to do."""
    detail = f": {outcome.detail}" if outcome.detail else ""
    hint = outcome.hint or _HINTS.get(outcome.kind)
    text = f"error: `{outcome.path}` is {outcome.kind.value}{detail}"
    return f"{text}\nhint: {hint}" if hint else text


def failures(report: Report) -> list[str]:
    """Return one block for each file that failed, the first twenty; the rest are counted."""
    bad = [outcome for outcome in report.outcomes if outcome.kind.exit_code is not ExitCode.CLEAN]
    blocks = [failure(outcome) for outcome in bad[:_MOST_FAILURES]]
    if len(bad) > _MOST_FAILURES:
        blocks.append(f"error: {human.count(len(bad) - _MOST_FAILURES, 'more file')} failed; `--json` names all")
    return blocks


def summary(report: Report) -> str:
    """Return the run in one line."""
    good = [outcome for outcome in report.outcomes if outcome.kind.exit_code is ExitCode.CLEAN]
    size = human.size(sum(outcome.size for outcome in good))
    if not report.changed and len(good) == len(report.outcomes):
        return f"nothing to do: {human.count(len(good), 'file')}, {size}, all proved already"
    how = Counter(outcome.kind for outcome in good)
    parts = []
    for kind in (OutcomeKind.FETCHED, OutcomeKind.REFETCHED, OutcomeKind.LINKED, OutcomeKind.COPIED, OutcomeKind.KEPT):
        if how[kind]:
            parts.append(f"{how[kind]:,} {_WORDS.get(kind, kind.value)}")
    if report.bytes_fetched:
        speed = f" ({human.rate(report.bytes_fetched / report.seconds)})" if report.seconds > 0 else ""
        parts.append(f"{human.size(report.bytes_fetched)} received{speed}")
    if report.retries:
        parts.append(human.count(report.retries, "retry"))
    whole = human.count(len(good), "file")
    if len(good) < len(report.outcomes):
        whole = f"{len(good):,} of {human.count(len(report.outcomes), 'file')}"
    text = f"{whole}, {size} verified in {human.duration(report.seconds)}"
    return f"{text}; {', '.join(parts)}" if parts else text


_WORDS = {OutcomeKind.REFETCHED: "fetched twice (bad bytes came first)"}


def remarks(report: Report) -> list[str]:
    """Return what the reader of a good summary must still know."""
    lines = []
    again = [outcome for outcome in report.outcomes if outcome.kind is OutcomeKind.REFETCHED]
    for outcome in again[:_MOST_FAILURES]:
        how = f": {outcome.detail};" if outcome.detail else " and was fetched again;"
        lines.append(f"`{outcome.path}` came corrupted{how} it is proved now")
    if len(again) > _MOST_FAILURES:
        lines.append(f"so were {human.count(len(again) - _MOST_FAILURES, 'more file')}")
    lines += broken_there(report.findings)
    if report.quarantined:
        verb = "lies" if report.quarantined == 1 else "lie"
        lines.append(f"{human.count(report.quarantined, 'bad copy')} {verb} in quarantine")
    if not report.published and report.kind != "clone":
        lines.append("the snapshot is not complete: its revision was not moved")
    return lines


def broken_there(findings: Sequence[Finding]) -> list[str]:
    """Return what is proved and yet broken, because the repo itself holds it so; the rest is counted."""
    lines = [
        f"`{one.path}` is proved, but broken in the repo itself: {one.code}, {one.seen}; {one.remedy}"
        for one in findings[:_MOST_FAILURES]
    ]
    if len(findings) > _MOST_FAILURES:
        lines.append(f"so are {human.count(len(findings) - _MOST_FAILURES, 'more file')}; `--json` names all")
    return lines


def table(plan: dict[str, Any]) -> list[str]:
    """Return a dry run (as JSON) as lines: a file a line, then the totals."""
    rows: Sequence[dict[str, Any]] = plan["files"]
    cells = [(row["action"], human.size(row["size"]), human.printable(row["path"])) for row in rows]
    actions = max((len(action) for action, _, _ in cells), default=0)
    sizes = max((len(size) for _, size, _ in cells), default=0)
    lines = [f"{action:<{actions}}  {size:>{sizes}}  {path}" for action, size, path in cells]
    whole = human.size(sum(row["size"] for row in rows))
    lines.append(
        f"{human.count(len(rows), 'file')}, {whole}: {human.size(plan['bytes_to_fetch'])} to fetch,"
        f" {human.size(plan['bytes_free_needed'])} of disk needed"
    )
    return lines
