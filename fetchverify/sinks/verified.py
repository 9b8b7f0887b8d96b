"""The words at a verification's end: a line a problem with its remedy, and what was proved against what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fetchverify.core.facts import Evidence, How
from fetchverify.core.findings import Finding, Kind, Rank
from fetchverify.core.verified import Place, VerifyReport
from fetchverify.sinks import human

_MOST_LINES = 100
_MOST_NAMES = 3
# A remedy would be no help: it is all right to be there.
_NO_REMEDY = frozenset({Kind.EXTRA, Kind.STRANGE, Kind.QUARANTINED, Kind.UNMARKED_STORE, Kind.LOOSE_MODE})


def objects(report: VerifyReport) -> Iterator[dict[str, Any]]:
    """Yield every file and every finding as an object of JSON."""
    for place in report.places:
        where = {"repo_id": place.repo_id, "target": place.target}
        for commit, path, evidence, how in place.files:
            against = {"evidence": evidence.value, "how": how.value}
            yield {"kind": "File", **where, "commit": commit, "path": path, "status": "ok", **against}
        for finding in place.verdict.findings:
            yield {"kind": "Finding", **where, **finding.as_json(), "remedy": _remedy(place, finding)}


def lines(report: VerifyReport, *, quiet: bool = False, every: bool = False) -> Iterator[str]:
    """Yield the report for people.

    Args:
        report: the report.
        quiet: only what makes the run fail.
        every: name all good files, however many.
    """
    for place in report.places:
        which = f"{_name(place)}: " if len(report.places) > 1 else ""
        if not quiet:
            yield from (which + line for line in _good(place, every=every))
        yield from (which + line for line in _bad(report, place, quiet=quiet))
    if quiet:
        return
    if len(report.places) > 1:
        for place in report.places:
            yield f"{_name(place)}: {_summary(place)}"
    if not report.places:
        yield "the cache holds no repo"
    elif report.sums is not None:
        yield f"sums written: {human.printable(report.sums)}"
    if report.places:
        yield _closing(report)


def _name(place: Place) -> str:
    if place.repo_id is None:
        return f"`{human.printable(place.target)}`"
    return place.repo_id if place.repo_type in (None, "model") else f"{place.repo_type} {place.repo_id}"


def _good(place: Place, *, every: bool) -> Iterator[str]:
    shown = place.files if every else place.files[:_MOST_LINES]
    for _, path, evidence, how in shown:
        yield f"`{human.printable(path)}`: {_proved(evidence, how)}"
    if len(shown) < len(place.files):
        yield f"and {human.count(len(place.files) - len(shown), 'more file')}; `-v` names all"


def _proved(evidence: Evidence, how: How) -> str:
    by = "" if how is How.HASHED else f", {how.value}"
    return f"proved against {evidence.value}{by}"


def _bad(report: VerifyReport, place: Place, *, quiet: bool) -> Iterator[str]:
    findings = place.verdict.findings
    told = [finding for finding in findings if report.fails(finding.kind)]
    if not quiet:
        told += [f for f in findings if f.kind.rank is not Rank.LITTER and not report.fails(f.kind)]
    for finding in told[:_MOST_LINES]:
        yield problem(place, finding)
    if len(told) > _MOST_LINES:
        yield f"and {human.count(len(told) - _MOST_LINES, 'more problem')}; `--json` names all"
    if quiet:
        return
    litter: dict[Kind, list[Finding]] = {}
    for finding in place.verdict.of_rank(Rank.LITTER):
        litter.setdefault(finding.kind, []).append(finding)
    for kind, group in litter.items():
        yield _litter(place, kind, group)


def problem(place: Place, finding: Finding) -> str:
    """Return the line that says what is wrong with one name, and what to type."""
    path = human.printable(finding.path).replace("\n", "\\x0a")
    text = f"`{path}` is {finding.kind.value}"
    if finding.detail:
        text += f": {human.printable(finding.detail)}"
    if len(finding.names) > 1:
        text += f" ({len(finding.names):,} names lead there)"
    remedy = _remedy(place, finding)
    return f"{text}; type `{remedy}`" if remedy else text


def _remedy(place: Place, finding: Finding) -> str | None:
    if finding.kind in _NO_REMEDY or finding.kind is Kind.UNPROVED:
        return None
    if place.in_cache and place.repo_id is None:
        return "fetchverify fix-cache"
    return place.remedy


def _litter(place: Place, kind: Kind, group: list[Finding]) -> str:
    names = ", ".join(f"`{human.printable(finding.path)}`" for finding in group[:_MOST_NAMES])
    more = "" if len(group) <= _MOST_NAMES else f" and {len(group) - _MOST_NAMES:,} more"
    size = sum(finding.size for finding in group)
    held = f", {human.size(size)}" if size else ""
    text = f"note: {names}{more}: {kind.value}{held}"
    remedy = _remedy(place, group[0])
    return f"{text}; type `{remedy}`" if remedy and place.in_cache else text


def _summary(place: Place) -> str:
    verdict = place.verdict
    good = sum(verdict.good.values())
    parts = [f"{good:,} of {human.count(verdict.files, 'file')} proved, {human.size(verdict.size)}"]
    parts += _counts(verdict.findings)
    return ", ".join(parts)


def _counts(findings: list[Finding]) -> list[str]:
    kinds = Counter(finding.kind for finding in findings if finding.kind.rank is not Rank.LITTER)
    return [f"{number:,} {_SHORT.get(kind, kind.value)}" for kind, number in kinds.items()]


_SHORT = {
    Kind.POINTER: "LFS pointers in place of content",
    Kind.PAGE: "web pages in place of content",
    Kind.DANGLING: "dangling links",
    Kind.WRONG_TARGET: "linked wrongly",
}


def _closing(report: VerifyReport) -> str:
    """Return the run in one line."""
    good: Counter[tuple[Evidence, How]] = Counter()
    for place in report.places:
        good.update(place.verdict.good)
    files = sum(place.verdict.files for place in report.places)
    size = sum(place.verdict.size for place in report.places)
    number = sum(good.values())
    whole = human.count(number, "file") if number == files else f"{number:,} of {human.count(files, 'file')}"
    against = Counter[Evidence]()
    by = Counter[How]()
    for (evidence, how), count in good.items():
        against[evidence] += count
        by[how] += count
    if len(against) == 1:
        whole += f" proved against {next(iter(against)).value}"
    elif against:
        told = ", ".join(f"{count:,} against {evidence.value}" for evidence, count in against.most_common())
        whole += f" proved: {told}"
    else:
        whole += " proved"
    text = f"{whole}, {human.size(size)}"
    if by:
        text += f"; {', '.join(f'{count:,} {_HOW[how]}' for how, count in by.most_common())}"
    bad = _counts([finding for place in report.places for finding in place.verdict.findings])
    if bad:
        text += f"; {', '.join(bad)}"
    speed = ""
    if report.bytes_hashed and report.seconds > 0:
        speed = f", {human.size(report.bytes_hashed)} read ({human.rate(report.bytes_hashed / report.seconds)})"
    return f"{text}; {human.duration(report.seconds)}{speed}"


_HOW = {
    How.HASHED: "hashed now",
    How.LEDGER: "unchanged since proof",
    How.BLOCKS: "with blocks unchanged since proof",
}
