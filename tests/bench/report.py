"""What the attempts amount to, as Markdown: medians, spreads, ratios within a round, aims."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench import site
from tests.bench.line import CLEAN
from tests.bench.peers import OURS, PEERS, UNSYNCED
from tests.bench.race import CONNECTIONS, LONG, Attempt, Result
from tests.bench.units import MiB, significant, spread

ABOUT = {way.name: way.about for way in (site.PLAIN, site.TLS, site.FAR, site.WIDE, *site.BAD)}
_FAR = {way.name for way in (site.FAR, site.WIDE, *site.BAD)}
_LABELS = {peer.name: peer.label for peer in PEERS}
_MOST_MEMORY = 150 * MiB
# Issue of the fast engine: verified, whole process, one big file.
_FASTER_THAN = {
    "plain": {"hf": 3.5, "aria2": 5.0, "hf_transfer": 1.3, "curl": 1.5},
    "tls": {"hf": 2.0, "aria2": 3.0, "hf_transfer": 1.1, "curl": 1.1},
}
_NEAR_IDEAL = 0.9
# Two runs of one program differ by this much.
_NOISE = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peer on one case by one way; lists hold a value a round."""

    peer: str
    verified: list[float]
    """Bytes per second."""
    fetched: list[float]
    """Bytes per second of the download alone; empty where it proves while it fetches."""
    synced: list[float]
    """Bytes per second until all is proved and on the disk; empty where that was not timed."""
    ahead: list[float]
    """How many times as fast fetchverify was in the same round."""
    ahead_synced: list[float]
    cpu: list[float]
    """Seconds per gigabyte."""
    peak: list[int]
    troubles: list[str]

    @property
    def label(self) -> str:
        """The name in tables."""
        name, _, told = self.peer.partition(" x")
        label = _LABELS[name]
        return f"{label}, {told} connections" if told else label

    @property
    def ours(self) -> bool:
        """Return whether this is fetchverify as users have it, with however many connections."""
        return self.peer.partition(" x")[0] == OURS.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All peers on one case by one way, fastest first."""

    way: str
    case: str
    rows: list[Row]

    def row(self, peer: str) -> Row | None:
        """Return a peer's row."""
        return next((row for row in self.rows if row.peer == peer), None)


def groups(result: Result) -> list[Group]:
    """Return the attempts by way and case."""
    keys = sorted(
        {(attempt.way, attempt.case) for attempt in result.attempts},
        key=lambda key: (list(ABOUT).index(key[0]), list(result.cases).index(key[1])),
    )
    return [_group(way, case, [a for a in result.attempts if (a.way, a.case) == (way, case)]) for way, case in keys]


def _group(way: str, case: str, attempts: list[Attempt]) -> Group:
    ours = {a.round: a for a in attempts if a.peer == OURS.name and not a.trouble}
    names = {attempt.peer for attempt in attempts}
    rows = [_row(name, [a for a in attempts if a.peer == name], ours) for name in names]
    return Group(way=way, case=case, rows=sorted(rows, key=lambda row: -_rate(row)))


def _rate(row: Row) -> float:
    return median(row.verified) if row.verified else 0.0


def _row(peer: str, attempts: list[Attempt], ours: dict[int, Attempt]) -> Row:
    good = [a for a in attempts if not a.trouble]
    paired = [(ours[a.round], a) for a in good if a.round in ours and a.peer != OURS.name]
    syncs = [a for a in good if any(step.kind == "sync" for step in a.steps)]
    own = peer == OURS.name
    return Row(
        peer=peer,
        verified=[a.verified_rate for a in good],
        fetched=[a.size / a.wall_s("fetch") for a in good if any(step.kind == "hash" for step in a.steps)],
        synced=[a.verified_rate for a in good] if own else [_synced(a) for a in syncs],
        ahead=[a.verified_rate / b.verified_rate for a, b in paired],
        ahead_synced=[a.verified_rate / _synced(b) for a, b in paired if b in syncs],
        cpu=[sum(s.cpu_s for s in a.steps if s.kind != "sync") / (a.size / 1e9) for a in good],
        peak=[max(step.peak for step in a.steps) for a in good],
        troubles=[a.trouble for a in attempts if a.trouble],
    )


def _synced(attempt: Attempt) -> float:
    return attempt.size / attempt.wall_s("fetch", "hash", "sync")


def as_markdown(result: Result) -> str:
    """Return the header, a table a case, and the aims."""
    lines = ["<!-- written by `python -m tests.bench` -->", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result.header.items()]
    lines += [
        "",
        "Whole processes, from start to exit, on one machine with the server. *Verified*: every byte is there and was"
        " proved. Medians, with minimum and maximum over the rounds; *fetchverify is* compares within a round."
        " Memory is that of the largest process.",
    ]
    for group in groups(result):
        lines += ["", f"### {_capital(ABOUT[group.way])}: {result.cases[group.case]}", "", *_table(group)]
    return "\n".join([*lines, "", "### Aims", "", *_aims(result), ""])


def _table(group: Group) -> list[str]:
    columns = ["tool", "verified, MB/s", "fetchverify is"]
    far, synced = group.way in _FAR, any(row.synced for row in group.rows if row.peer != OURS.name)
    if far:
        columns.append("of what the line carries")
    if synced:
        columns += ["verified and on disk, MB/s", "fetchverify is"]
    columns += ["download alone, MB/s", "CPU s per GB", "peak MiB"]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for row in group.rows:
        if not row.verified:
            lines.append(f"| {row.label} | failed: {row.troubles[0]} |" + " |" * (len(columns) - 2))
            continue
        failed = f" ({len(row.troubles)} failed)" if row.troubles else ""
        cells = [f"{row.label}{failed}", _rates(row.verified), _times(row.ahead)]
        if far:
            cells.append(f"{ideal_share(row):.0%}")
        if synced:
            cells += [_rates(row.synced), _times(row.ahead_synced)]
        cells += [_rates(row.fetched), spread(row.cpu), f"{max(row.peak) / MiB:.0f}"]
        bold = row.ours
        lines.append("| " + " | ".join(f"**{cell}**" if bold and cell else cell for cell in cells) + " |")
    return lines


def ideal_share(row: Row) -> float:
    """Return which part was used of what a clean line carries with 16 connections, or at most."""
    return _rate(row) / (CONNECTIONS * CLEAN.bytes_a_second)


def _rates(values: list[float]) -> str:
    return spread([value / 1e6 for value in values]) if values else ""


def _times(values: list[float]) -> str:
    return f"{spread(values)} x" if values else ""


def _aims(result: Result) -> list[str]:
    lines = ["| aim | as it comes | its fsync made void |", "|---|---:|---:|"]
    found = groups(result)
    for group in found:
        if group.case == "big" and group.way in _FASTER_THAN:
            for name, times in _FASTER_THAN[group.way].items():
                what = f"{ABOUT[group.way]}, one big file: {significant(times)} x {_LABELS[name]}"
                lines += _against(group, what, [name], times)
        if group.way in _FAR:
            best = next((r for r in group.rows if r.verified and not r.ours and r.peer != UNSYNCED.name), None)
            if best is not None:
                what = f"{ABOUT[group.way]}, {result.cases[group.case]}: not behind the best, {best.label}"
                lines += _against(group, what, [best.peer], _NOISE)
        if group.case == LONG:
            for row in (row for row in group.rows if row.ours):
                share = ideal_share(row)
                what = f"{ABOUT[group.way]}, {result.cases[LONG]}: {_NEAR_IDEAL:.0%} of ideal"
                lines.append(f"| {what} | {share:.0%}, {_word(share >= _NEAR_IDEAL)} | |")
    peaks = [max(row.peak) for group in found for row in group.rows if row.ours and row.peak]
    if peaks:
        word = _word(max(peaks) < _MOST_MEMORY)
        lines.append(f"| peak memory below {_MOST_MEMORY // MiB} MiB | {max(peaks) / MiB:.0f} MiB, {word} | |")
    return lines


def _against(group: Group, what: str, names: list[str], aim: float) -> list[str]:
    cells = []
    for name in (OURS.name, UNSYNCED.name):
        row, other = group.row(name), group.row(names[0])
        if row is None or other is None or not row.verified or not other.verified:
            cells.append("")
            continue
        times = _rate(row) / _rate(other) if name != OURS.name else median(other.ahead)
        cells.append(f"{significant(times)} x, {_word(times >= aim)}")
    return [f"| {what} | {' | '.join(cells)} |"]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _word(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def summary(result: Result) -> str:
    """Return the table that README shows: verified MB/s by way and case, a column a tool."""
    shown = [OURS.name, *(peer.name for peer in PEERS if peer.name not in (OURS.name, UNSYNCED.name))]
    lines = [f"| verified, MB/s | {' | '.join(_LABELS[name] for name in shown)} |", f"|---|{'---:|' * len(shown)}"]
    for group in groups(result):
        if group.row(OURS.name) is None:
            continue  # nobody to compare it with
        cells = []
        for name in shown:
            row = group.row(name)
            cells.append(significant(_rate(row) / 1e6) if row is not None and row.verified else "")
        lines.append(f"| {ABOUT[group.way]}: {result.cases[group.case]} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def write(result: Result, folder: Path, plot: str) -> None:
    """Write `table.md`, `plot.svg` and `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(as_markdown(result), encoding="utf-8")
    (folder / "plot.svg").write_text(plot, encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Result:
    """Return what `write` wrote."""
    from tests.bench.race import Took

    body = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    attempts = [
        Attempt(**{**attempt, "steps": tuple(Took(**step) for step in attempt["steps"])})
        for attempt in body["attempts"]
    ]
    return Result(header=body["header"], cases=body["cases"], attempts=tuple(attempts))
