"""The words of `doctor`: findings as people read them, gravest first; printing them is left to the caller."""

from __future__ import annotations

from collections.abc import Iterable

from fetchverify.core.diagnosis.codes import RULES
from fetchverify.core.diagnosis.findings import Diagnosis, Finding, Severity
from fetchverify.sinks import human

_RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_MOST_OF_A_CODE = 5


def lines(diagnosis: Diagnosis) -> list[str]:
    """Return the findings, then one line that sums up."""
    found: list[str] = []
    for code, findings in _by_code(diagnosis.findings):
        for one in findings[:_MOST_OF_A_CODE]:
            found += _block(one)
        if len(findings) > _MOST_OF_A_CODE:
            found.append(f"  {code} {len(findings) - _MOST_OF_A_CODE:,} more like it; `--json` names all")
    # A name may hold a line end, and must not begin a line that reads like one of ours.
    return [human.printable(line).replace("\n", "\\x0a") for line in (*found, verdict(diagnosis))]


def _by_code(findings: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    groups: dict[tuple[int, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((_RANK[one.severity], one.code), []).append(one)
    return [(key[1], groups[key]) for key in sorted(groups)]


def _block(one: Finding) -> list[str]:
    return [
        f"{one.severity.value} {one.code}: {RULES[one.code].title}: {one.path}",
        f"  seen: {one.seen}",
        f"  why:  {one.why}",
        f"  do:   {one.remedy}",
    ]


def verdict(diagnosis: Diagnosis) -> str:
    """Return the whole in one line."""
    what = ", ".join(dict.fromkeys(place.layout for place in diagnosis.places)) or "no known layout"
    checked = ", ".join(diagnosis.checked)
    counts = [sum(one.severity is severity for one in diagnosis.findings) for severity in Severity]
    said = [human.count(number, severity.value) for number, severity in zip(counts, Severity, strict=True) if number]
    if counts[2]:
        said[-1] = human.count(counts[2], "note")
    head = "healthy" if not counts[0] and not counts[1] else "broken" if counts[0] else "usable, with warnings"
    if not diagnosis.places and not counts[0]:
        head = "unknown"
    tail = f"; {', '.join(said)}" if said else ""
    if diagnosis.serves is not None:
        tail += "; it can serve that use" if diagnosis.serves else "; it cannot serve that use"
    left = f"; not checked: {', '.join(diagnosis.unchecked)}" if diagnosis.unchecked else ""
    return f"{head} ({what}): checked {checked}, in {human.duration(diagnosis.seconds)}{tail}{left}"
