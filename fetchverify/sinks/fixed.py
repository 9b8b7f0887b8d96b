"""The words of `fix-cache`: a line a step, what is left, what went, and the run in one line."""

from __future__ import annotations

from collections.abc import Iterator

from fetchverify.core.findings import Rank
from fetchverify.core.fixed import FixedPlace, FixReport
from fetchverify.core.purge import Purge
from fetchverify.core.repair import Act, Step
from fetchverify.sinks import human

_MOST_LINES = 100
_DONE = {
    Act.RESTORE: "restored",
    Act.REBUILD: "rebuilt from what is there, or removed where nothing is",
    Act.SET_ASIDE: "set aside",
    Act.PERMIT: "readable again",
    Act.ASK_ANEW: "asked anew, or removed",
    Act.REMOVE: "removed",
    Act.REFER: "noted as used",
    Act.CLOSE: "closed to writing",
    Act.MARK: "marked",
}


def lines(report: FixReport, *, quiet: bool = False) -> Iterator[str]:
    """Yield the report for people; quiet: only what is left."""
    for place in report.places:
        which = f"{human.printable(place.name)}: " if len(report.places) > 1 else ""
        if not quiet:
            yield from (which + line for line in _steps(report, place))
        for finding, why in place.left:
            if finding.kind.rank is Rank.DAMAGE:
                yield f"{which}`{human.printable(finding.path)}` is {finding.kind.value}: not mended, {why}"
    if quiet:
        return
    yield _closing(report)


def _steps(report: FixReport, place: FixedPlace) -> Iterator[str]:
    shown = place.steps[:_MOST_LINES]
    for step in shown:
        yield _step(step, dry_run=report.dry_run)
    if len(shown) < len(place.steps):
        yield f"and {human.count(len(place.steps) - len(shown), 'more step')}; `--json` names all"
    for purge in place.purged[:_MOST_LINES]:
        yield _purge(purge, dry_run=report.dry_run)


def _step(step: Step, *, dry_run: bool) -> str:
    what = f"`{human.printable(step.path)}` {'is' if dry_run else 'was'} {step.kind.value}"
    costs = [f"{human.size(step.fetch)} to fetch"] if step.fetch and dry_run else []
    if step.blocks and step.fetch:
        costs.append(f"{human.count(len(step.blocks), 'block')} of it")
    costs += [f"{human.size(step.frees)} {'to free' if dry_run else 'freed'}"] if step.frees else []
    told = f"{what}: {'to be ' if dry_run else ''}{_DONE[step.act]}"
    return f"{told} ({', '.join(costs)})" if costs else told


def _purge(purge: Purge, *, dry_run: bool) -> str:
    what = f"revision `{purge.commit[:8]}`" if purge.commit else f"blob `{purge.blobs[0][:12]}…`"
    verb = "to be removed" if dry_run else "removed"
    return f"{what}: {verb}, {purge.why} ({human.size(purge.frees)})"


def _closing(report: FixReport) -> str:
    steps = sum(len(place.steps) for place in report.places)
    left = sum(finding.kind.rank is Rank.DAMAGE for place in report.places for finding, _ in place.left)
    purged = [purge for place in report.places for purge in place.purged]
    parts = []
    if report.dry_run:
        parts.append(f"{human.count(steps, 'step')} to take" if steps else "nothing to mend")
        parts.append(f"{human.size(sum(place.fetch for place in report.places))} to fetch")
        frees = sum(step.frees for place in report.places for step in place.steps) + sum(p.frees for p in purged)
        parts.append(f"{human.size(frees)} to free")
    else:
        parts.append(f"{human.count(steps, 'thing')} mended" if steps else "nothing to mend")
        if report.bytes_fetched:
            parts.append(f"{human.size(report.bytes_fetched)} received")
        if report.bytes_freed:
            parts.append(f"{human.size(report.bytes_freed)} freed")
    if purged:
        parts.append(f"{human.count(len(purged), 'stale thing')} {'to purge' if report.dry_run else 'purged'}")
    if left:
        parts.append(f"{human.count(left, 'problem')} left")
    repos = human.count(len(report.places), "place")
    return f"{repos}: {', '.join(parts)}; {human.duration(report.seconds)}"
