"""A mirror of thousands of repos in which nothing moved: what one run of `mirror sync` costs at 50 ms round trip."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fetchverify.core.manifest import Commit, RepoRef
from fetchverify.core.mirrorconfig import Entry
from fetchverify.core.mirrorstate import RepoState, render
from mock_server import MockHub, Quota, World
from tests.bench.line import CLEAN, compile_line, lacking, laid, listener
from tests.bench.measure import Cost, Launcher
from tests.bench.units import MiB

AIM_S = 60
_TIMEOUT_S = 1200.0
# The free account's 1,000 API calls in 5 minutes: a tenth of the calls, in a tenth of the time.
_SCALE = 10
_QUOTA = Quota(limit=1000 // _SCALE, window_s=300.0 / _SCALE)


def measure(folder: Path, count: int, results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `mirror.md`; return the exit code."""
    if (why := lacking()) is not None:
        raise RuntimeError(why)
    world = World()
    for number in range(count):
        world.add(f"org/repo-{number:05d}", {"config.json": b"%d" % number})
    rows: list[tuple[str, int, Cost, int, int]] = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetchverify-bench-") as work, Launcher() as launcher:
        program = compile_line(Path(work))
        each = "".join(f'[[repo]]\nid = "org/repo-{number:05d}"\n' for number in range(count))
        few = max(1, count // _SCALE)
        fewer = "".join(f'[[repo]]\nid = "org/repo-{number:05d}"\n' for number in range(few))
        quota = f"within {_QUOTA.limit} calls in {_QUOTA.window_s:.0f} s"
        for name, entries, repos, quotas in (
            (f"{count:,} entries, each a repo", each, count, {}),
            (f"one entry, an account of {count:,} repos", '[[repo]]\nid = "org/*"\n', count, {}),
            (f"{few:,} entries, {quota}", fewer, few, {"api": _QUOTA}),
        ):
            with MockHub(world, quotas=quotas) as hub, _far(program, hub) as address:
                place = Path(work) / "mirror"
                shutil.rmtree(place, ignore_errors=True)
                _lay(place, world, repos)
                config = Path(work) / "mirror.toml"
                config.write_text(f'folder = "{place}"\nlayout = "folders"\nendpoints = ["{address}"]\n{entries}')
                env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": work}
                argv = [sys.executable, "-m", "fetchverify", "mirror", "sync", str(config)]
                cost = launcher.run(argv, env=env, log=Path(work) / "said", timeout_s=_TIMEOUT_S)
                if cost.code or cost.output:
                    raise RuntimeError(f"{name}: exit code {cost.code}: {cost.output[-500:]}")
                asked = hub.ledger.requests()
                refused = sum(record.status == 429 for record in asked)
            rows.append((name, repos, cost, len(asked), refused))
            tell(f"{name}: {cost.wall_s:.0f} s")
    memory = [(number, _peak(folder, number, tell)) for number in (count // 5, count, count * 4)]
    text = _text(rows, memory)
    (results / "mirror.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _peak(folder: Path, count: int, tell: Callable[[str], None]) -> tuple[int, int]:
    """Return the most memory that a run takes in which nothing moved: an entry a repo, and an account's; no line."""
    world = World()
    for number in range(count):
        world.add(f"org/repo-{number:05d}", {"config.json": b"%d" % number})
    each = "".join(f'[[repo]]\nid = "{repo.repo_id}"\n' for repo in world.repos("model"))
    peaks = []
    for entries in (each, '[[repo]]\nid = "org/*"\n'):
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix="fetchverify-bench-") as work,
            MockHub(world) as hub,
            Launcher() as launcher,
        ):
            place, config = Path(work) / "mirror", Path(work) / "mirror.toml"
            _lay(place, world, count)
            config.write_text(f'folder = "{place}"\nlayout = "folders"\nendpoints = ["{hub.endpoint}"]\n{entries}')
            env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": work}
            argv = [sys.executable, "-m", "fetchverify", "mirror", "sync", str(config)]
            cost = launcher.run(argv, env=env, log=Path(work) / "said", timeout_s=_TIMEOUT_S)
            if cost.code or cost.output:
                raise RuntimeError(f"{count:,} repos: exit code {cost.code}: {cost.output[-500:]}")
            peaks.append(cost.peak)
    tell(f"{count:,} repos: {peaks[0] / MiB:.0f} and {peaks[1] / MiB:.0f} MiB")
    return peaks[0], peaks[1]


@contextmanager
def _far(program: Path, hub: MockHub) -> Iterator[str]:
    """Yield an address that leads to the Hub over 50 ms."""
    door = listener("127.0.0.1")
    port = door.getsockname()[1]
    with laid(program, replace(CLEAN, mbit=1000), [(door, "127.0.0.1", int(hub.endpoint.rpartition(":")[2]))]):
        yield f"http://127.0.0.1:{port}"


def _lay(place: Path, world: World, repos: int) -> None:
    """Lay out what a run would have left: a commit's folder, a link and a line of the book each, without the bytes."""
    selection = Entry(repo_id="org/*").selection
    states = []
    for repo in world.repos("model")[:repos]:
        commit = Commit(repo.head().id)
        (place / repo.repo_id / commit).mkdir(parents=True)
        (place / repo.repo_id / "main").symlink_to(commit)
        state = RepoState(ref=RepoRef(kind="model", repo_id=repo.repo_id, revision="main"))
        states.append(state.published(time.time(), commit, selection=selection, files=1, size=1))
    (place / ".fetchverify").mkdir()
    (place / ".fetchverify" / "state").write_text("".join(render(states)))


def _text(rows: list[tuple[str, int, Cost, int, int]], memory: list[tuple[int, tuple[int, int]]]) -> str:
    lines = [
        "One run each of `fetchverify mirror sync` in which nothing moved, over a line of 50 ms round trip. The aim:"
        f" below {AIM_S} s where there is no quota; within one, paced and not failed.",
        "",
        "| what is kept | seconds | requests | refused by the quota | CPU s | peak MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, _, cost, asked, refused in rows:
        lines.append(
            f"| {name} | {cost.wall_s:.1f} | {asked:,} | {refused:,} | {cost.cpu_s:.1f} | {cost.peak / MiB:.0f} |"
        )
    lines += ["", "What it takes of memory, without the line:", ""]
    lines += ["| repos | peak MiB, an entry each | peak MiB, one account |", "|---:|---:|---:|"]
    lines += [f"| {number:,} | {each / MiB:.0f} | {account / MiB:.0f} |" for number, (each, account) in memory]
    return "\n".join([*lines, ""])
