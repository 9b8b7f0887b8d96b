"""The words of `mirror`: what a run says to cron, the table of `mirror status`, and its metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fetchverify.core.mirrored import Done, Fate, SyncReport
from fetchverify.sinks import human

if TYPE_CHECKING:
    from fetchverify.core.manifest import RepoRef

_MOST = 50


def sync_lines(report: SyncReport) -> list[str]:
    """Return what a run has to say; nothing where nothing happened, so that cron mails nothing."""
    told = [one for one in report.done if one.news and _words(one)]
    lines = [f"{_name(one.ref)}  {_words(one)}" for one in told[:_MOST]]
    if len(told) > _MOST:
        lines.append(f"and {len(told) - _MOST:,} more; `--json` names all")
    if told:
        lines.append(_sum(report))
    return [human.printable(line) for line in lines]


def _words(one: Done) -> str:
    match one.fate:
        case Fate.CHANGED | Fate.MENDED:
            way = f"{_short(one.before)} -> {_short(one.after)}" if one.before != one.after else _short(one.after)
            return f"{one.fate.value}  {way}  {human.size(one.fetched)} fetched"
        case Fate.DUE:
            return f"would be fetched; readers see {_short(one.before)}"
        case Fate.FAILED:
            often = f", {one.failures} times in a row" if one.failures > 1 else ""
            return f"failed{often}: {one.detail}" + (f"; {one.hint}" if one.hint else "")
        case Fate.UNREACHED:
            return f"not looked at, and others neither: {one.detail}"
        case Fate.GONE:
            return f"gone upstream, kept here: {one.detail}"
        case Fate.PURGED:
            return f"purged: {one.detail}"
    return one.detail or ""


def _sum(report: SyncReport) -> str:
    counts = [(fate, report.count([fate])) for fate in Fate]
    parts = [f"{number:,} {fate.value}" for fate, number in counts if number]
    return f"{', '.join(parts)}; {human.duration(report.seconds)}"


def _short(commit: str | None) -> str:
    return "nothing" if commit is None else commit[:8]


def _name(ref: RepoRef) -> str:
    kind = "" if ref.kind == "model" else f"{ref.kind}s/"
    return f"{kind}{ref.repo_id}" + ("" if ref.revision == "main" else f"@{ref.revision}")


def status_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the table of `mirror status`, from its JSON."""
    head = ("repo", "commit", "status", "last success", "size", "why")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head) - 1)]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return [human.printable(line) for line in lines]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    kind = "" if row["type"] == "model" else f"{row['type']}s/"
    name = f"{kind}{row['repo_id']}" + ("" if row["revision"] == "main" else f"@{row['revision']}")
    lag = row["lag_s"]
    why = row["error"] or (f"renamed to {row['renamed_to']}" if row["renamed_to"] else "")
    if row["quarantined"]:
        why = f"{human.count(row['quarantined'], 'bad copy')} in quarantine" + (f"; {why}" if why else "")
    ago = "never" if lag is None else f"{human.duration(lag)} ago"
    return name, _short(row["commit"]), row["status"], ago, human.size(row["bytes"]), why


_METRICS = (
    (
        "last_success_timestamp_seconds",
        "gauge",
        "When what lies here was last known to be what the Hub has.",
        "succeeded",
    ),
    ("last_check_timestamp_seconds", "gauge", "When the Hub last said where the revision stands.", "checked"),
    ("last_change_timestamp_seconds", "gauge", "When another commit was last published.", "changed"),
    ("lag_seconds", "gauge", "Seconds since the last success; absent where there was none.", "lag_s"),
    ("bytes", "gauge", "Bytes of the files that were asked for.", "bytes"),
    ("files", "gauge", "Files that were asked for.", "files"),
    ("fetched_bytes_total", "counter", "Bytes received over the network, in all runs.", "fetched"),
    ("failures", "gauge", "Runs in a row that failed.", "failures"),
    ("gone", "gauge", "1 where the Hub does not have it any more.", "gone_since"),
    ("damaged_commits", "gauge", "Commits in which bad bytes were found.", "damaged"),
    ("quarantined_copies", "gauge", "Bad copies that lie in quarantine.", "quarantined"),
)


def prometheus(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the state of a mirror in Prometheus's text format, for node_exporter's textfile collector.

    Source: prometheus.io, *Exposition formats*, version 0.0.4.
    """
    known = list(rows)
    return "".join(f"{line}\n" for line in _metric_lines(known))


def _metric_lines(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    for name, kind, about, key in _METRICS:
        yield f"# HELP fetchverify_mirror_{name} {about}"
        yield f"# TYPE fetchverify_mirror_{name} {kind}"
        for row in rows:
            value = row[key]
            if value is None:
                continue
            if key == "damaged":
                value = len(value)
            elif key == "gone_since":
                value = int(bool(value))
            labels = ",".join(f'{label}="{_escaped(row[label])}"' for label in ("type", "repo_id", "revision"))
            yield f"fetchverify_mirror_{name}{{{labels}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
