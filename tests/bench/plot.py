"""The plot: a panel a case, a bar a tool, as SVG that is readable on white and on black."""

from __future__ import annotations

from html import escape
from statistics import median

from tests.bench.peers import OURS, UNSYNCED
from tests.bench.race import Result
from tests.bench.report import ABOUT, Group, Row, groups
from tests.bench.units import significant

_COLUMNS = 3
_PANEL, _GAP, _LEFT, _TOP = 300, 16, 12, 44
_BAR, _STEP, _HEAD, _NAMES, _VALUES = 11, 17, 22, 104, 48
_SHORT = {
    OURS.name: "fetchverify",
    UNSYNCED.name: "… without fsync",
    "hf": "hf + hashlib",
    "hf_transfer": "hf_transfer + h.",
    "curl": "curl + openssl",
    "aria2": "aria2c --checksum",
}
_STYLE = """
text { font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.title { font-size: 14px; font-weight: 600; } .head { font-weight: 600; } .dim { fill: #59636e; }
.ours { fill: #0969da; } .half { fill: #54aeff; } .peer { fill: #afb8c1; }
.alone { stroke: #59636e; stroke-width: 1.5; } .ground { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .dim { fill: #9198a1; }
  .ours { fill: #4493f8; } .half { fill: #1f4f8f; } .peer { fill: #57606a; } .alone { stroke: #9198a1; }
  .ground { fill: #0d1117; }
}
"""


def as_svg(result: Result) -> str:
    """Return the plot."""
    panels = groups(result)
    ways = [way for way in ABOUT if any(group.way == way for group in panels)]
    body: list[str] = []
    y = float(_TOP)
    line: list[Group] = []
    for way in ways:
        line += [group for group in panels if group.way == way]
        # Ways with one case share a line.
        following = next((group for group in panels if ways.index(group.way) == ways.index(way) + 1), None)
        single = sum(group.way == way for group in panels) == 1
        if single and following is not None and len(line) < _COLUMNS:
            continue
        for start in range(0, len(line), _COLUMNS):
            shown = line[start : start + _COLUMNS]
            for column, group in enumerate(shown):
                body += _panel(group, result.cases[group.case], _LEFT + column * (_PANEL + _GAP), y)
            y += _HEAD + 16 + _STEP * max(len(group.rows) for group in shown) + _GAP
        line = []
    width = 2 * _LEFT + _COLUMNS * _PANEL + (_COLUMNS - 1) * _GAP
    about = f"{result.header.get('processor', '')}; {result.header.get('disk', '')}; {result.header.get('date', '')}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y:.0f}" width="{width}" height="{y:.0f}"'
            ' role="img" aria-label="Verified megabytes a second of fetchverify and its peers">',
            f"<style>{_STYLE}</style>",
            '<rect class="ground" width="100%" height="100%" rx="6"/>',  # a page's theme may not be the system's
            f'<text class="title" x="{_LEFT}" y="18">Verified MB/s, whole process, medians; more is better</text>',
            f'<text class="dim" x="{_LEFT}" y="33">| the download alone, nothing proved. {escape(about)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _panel(group: Group, about: str, x: float, y: float) -> list[str]:
    lines = [
        f'<text class="head" x="{x:.0f}" y="{y + 12:.0f}">{escape(about)}</text>',
        f'<text class="dim" x="{x:.0f}" y="{y + 25:.0f}">{escape(_fit(ABOUT[group.way]))}</text>',
    ]
    most = max([_median(row.verified) for row in group.rows] + [_median(row.fetched) for row in group.rows] + [1.0])
    room = _PANEL - _NAMES - _VALUES
    for number, row in enumerate(group.rows):
        top = y + _HEAD + 12 + number * _STEP
        rate, alone = _median(row.verified), _median(row.fetched)
        left, long = x + _NAMES, room * rate / most
        lines.append(f'<text x="{left - 5:.0f}" y="{top + 9:.0f}" text-anchor="end">{escape(_name(row))}</text>')
        if rate:
            lines.append(
                f'<rect class="{_class(row)}" x="{left:.1f}" y="{top:.1f}" width="{long:.1f}" height="{_BAR}" rx="2"/>'
            )
        if alone:
            mark = left + room * alone / most
            lines.append(f'<path class="alone" d="M{mark:.1f} {top - 1:.1f}v{_BAR + 2}"/>')
        value = significant(rate / 1e6) if rate else "failed"
        lines.append(f'<text class="dim" x="{x + _PANEL:.0f}" y="{top + 9:.0f}" text-anchor="end">{value}</text>')
    return lines


def _median(values: list[float]) -> float:
    return median(values) if values else 0.0


def _class(row: Row) -> str:
    return "ours" if row.ours else "half" if row.peer == UNSYNCED.name else "peer"


def _name(row: Row) -> str:
    name, _, told = row.peer.partition(" x")
    return f"{name} x{told}" if told else _SHORT.get(name, name)


def _fit(text: str) -> str:
    return text if len(text) <= 52 else text[:51].rsplit(" ", 1)[0] + " …"
