"""Repos of very many small files: how soon the first is asked for, and whether the cost grows in a straight line."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import place, site
from tests.bench.cases import Case, Shelf, many_case
from tests.bench.launch import TIMED_OUT
from tests.bench.measure import Cost, Launcher
from tests.bench.peers import OURS, Order, Tools
from tests.bench.race import workshop
from tests.bench.site import Site
from tests.bench.units import KiB, MiB, significant

AIM_S = 2.0
_TIMEOUT_S = 900.0
_FLUSHED_S = 1.5  # nginx keeps its log back for a second


@dataclass(frozen=True, slots=True, kw_only=True)
class _Requests:
    """When a run asked for what; seconds since whenever."""

    tree_end: float
    first_file: float
    files: int
    total: int


def measure(folder: Path, counts: list[int], results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `many.md`; return the exit code."""
    rows: list[tuple[Case, Cost, _Requests]] = []
    # A page of memory, an inode and a name each.
    with workshop(folder, sum(counts) * 8 * KiB) as (work, shelf_folder, _), Launcher() as launcher:
        shelf = Shelf(shelf_folder)
        for count in counts:
            tell(f"writing {count:,} files")
            case = many_case(shelf, count)
            with site.opened(work, shelf, [case], [site.PLAIN], access_log=True) as server:
                out = work / "out"
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                place.warm(work)
                order = Order(
                    case=case,
                    commit=shelf.commit(case),
                    endpoint=server.endpoints["plain"],
                    ca=None,
                    out=out,
                    connections=16,
                )
                (step,) = OURS.steps(order, Tools(python="", nosync=None))
                cost = launcher.run(step.argv, env=step.env, log=work / "said", timeout_s=_TIMEOUT_S)
                time.sleep(_FLUSHED_S)
                requests = _requests(server, work)
                if cost.code and cost.code != TIMED_OUT:
                    raise RuntimeError(f"{case.repo_id}: exit code {cost.code}: {cost.output[-500:]}")
            rows.append((case, cost, requests))
            shutil.rmtree(out, ignore_errors=True)
            tell(f"{count:,} files: {cost.wall_s:.0f} s")
    text = _text(rows)
    (results / "many.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if any(cost.code for _, cost, _ in rows) else 0


def _text(rows: list[tuple[Case, Cost, _Requests]]) -> str:
    lines = [
        f"One run each of `fetchverify get`, files of 200 bytes. The aim: the first file is asked for within"
        f" {AIM_S:g} s of the last page of the listing; memory flat, cost linear.",
        "",
        "| files | last page to first file, s | total, s | files/s | CPU ms a file | peak MiB | requests |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, cost, requests in rows:
        count = len(case.files)
        done = f"{requests.files:,} of {count:,}, out of time" if cost.code == TIMED_OUT else f"{count:,}"
        wait_s = requests.first_file - requests.tree_end
        rate = requests.files / (cost.wall_s or 1)
        cpu_ms = cost.cpu_s * 1000 / max(requests.files, 1)
        cells = [done, significant(max(wait_s, 0.0)), f"{cost.wall_s:.1f}", f"{rate:.0f}", significant(cpu_ms)]
        lines.append(f"| {' | '.join(cells)} | {cost.peak / MiB:.0f} | {requests.total:,} |")
    return "\n".join([*lines, ""])


def _requests(server: Site, work: Path) -> _Requests:
    """Return what was asked, from the mock Hub's ledger or nginx's log; times of the latter are in milliseconds."""
    spans: list[tuple[float, float, str]]
    if server.ledgers:
        records = server.ledgers["plain"].ledger.requests()
        spans = [(record.t_start, record.t_end or record.t_start, record.path) for record in records]
    else:
        spans = []
        for line in (work / "plain.log").read_text().splitlines():
            ended, took, _, path = line.split(" ", 3)
            spans.append((float(ended) - float(took), float(ended), path))
        (work / "plain.log").unlink()
    trees = [end for _, end, path in spans if path.startswith("/api/") and "/tree/" in path]
    files = [start for start, _, path in spans if not path.startswith("/api/")]
    if not trees or not files:
        raise RuntimeError("no listing or no file was asked for")
    return _Requests(tree_end=max(trees), first_file=min(files), files=len(files), total=len(spans))
