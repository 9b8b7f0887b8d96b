"""`fetchverify get .` in a clone full of pointers, against `git lfs pull`: time, disk, bytes, a kill at half."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mock_server import MockHub
from tests.bench import place
from tests.bench.cases import Case, Shelf
from tests.bench.line import compiler
from tests.bench.peers import compile_nosync
from tests.bench.race import workshop
from tests.bench.units import MiB, spread

AIM_SPEED, AIM_DISK = 3.0, 0.5
_FILES = 4
_LOOK_EVERY_S = 0.1
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A way to fill the pointers of a clone."""

    label: str
    argv: tuple[str, ...]
    preload: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took; `sent` are the server's bytes, `peak` the disk that work tree and `.git` took at most."""

    wall_s: float
    cpu_s: float
    sent: int
    peak: int


def measure(folder: Path, size: int, rounds: int, results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `clones.md`; return the exit code."""
    if shutil.which("git-lfs") is None:
        raise RuntimeError("git-lfs is not installed")
    with workshop(folder, 3 * size) as (work, shelf_folder, _):
        shelf = Shelf(shelf_folder)
        names = [f"model-{number:05d}-of-{_FILES:05d}.safetensors" for number in range(1, _FILES + 1)]
        case = shelf.add("clone", "", [(name, size // _FILES) for name in names], lfs=True)
        ours = (sys.executable, "-m", "fetchverify", "get", ".", "-q")
        tools = [
            Tool(label="git lfs pull", argv=("git", "lfs", "pull")),
            Tool(label="fetchverify get .", argv=ours),
            Tool(label="fetchverify get . --link", argv=(*ours, "--link")),
            Tool(label="fetchverify get . --lfs-store", argv=(*ours, "--lfs-store")),
        ]
        nosync = compile_nosync(work, compiler())
        if nosync is not None:
            tools.append(Tool(label="fetchverify get ., its fsync made void", argv=ours, preload=nosync))
        whole: dict[str, list[Run]] = {tool.label: [] for tool in tools}
        killed: dict[str, list[Run]] = {tool.label: [] for tool in tools[:2]}
        with MockHub(shelf.world) as hub:
            bench = _Bench(hub, work, case)
            for number in range(rounds):
                for tool in random.sample(tools, len(tools)):
                    whole[tool.label].append(bench.whole(tool))
                    tell(f"{number + 1}. {tool.label}: {whole[tool.label][-1].wall_s:.2f} s")
                for tool in random.sample(tools[:2], 2):
                    killed[tool.label].append(bench.killed(tool))
                    tell(f"{number + 1}. {tool.label}, killed at half: {killed[tool.label][-1].wall_s:.2f} s")
        text = _text(case.size, whole, killed, place.describe(work)["disk"])
    (results / "clones.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


class _Bench:
    def __init__(self, hub: MockHub, work: Path, case: Case) -> None:
        self._hub = hub
        self._case = case
        self._clone = work / "clone"
        self._work = work
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(work),
            "HF_HOME": str(work / "home"),
            "HF_ENDPOINT": hub.endpoint,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        subprocess.run(["git", "lfs", "install", "--skip-repo"], env=self._env, check=True, capture_output=True)

    def whole(self, tool: Tool) -> Run:
        self._fresh()
        self._hub.ledger.clear()
        with _watched(self._clone) as peak:
            wall_s, cpu_s = self._run(tool)
        return self._checked(wall_s, cpu_s, peak)

    def killed(self, tool: Tool) -> Run:
        """Kill it when half of the bytes were sent, run it again, and return that second run with all bytes sent."""
        self._fresh()
        self._hub.ledger.clear()
        process = subprocess.Popen(
            tool.argv, cwd=self._clone, env=self._env, stdout=-3, stderr=-3, start_new_session=True
        )
        while self._sent() < self._case.size / 2 and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with _watched(self._clone) as peak:
            wall_s, cpu_s = self._run(tool)
        return self._checked(wall_s, cpu_s, peak)

    def _fresh(self) -> None:
        shutil.rmtree(self._clone, ignore_errors=True)
        shutil.rmtree(self._work / "home", ignore_errors=True)
        env = {**self._env, "GIT_LFS_SKIP_SMUDGE": "1"}
        argv = ["git", "clone", "-q", f"{self._hub.endpoint}/{self._case.repo_id}", str(self._clone)]
        subprocess.run(argv, env=env, check=True, capture_output=True)
        place.warm(self._work)

    def _run(self, tool: Tool) -> tuple[float, float]:
        env = self._env if tool.preload is None else {**self._env, "LD_PRELOAD": str(tool.preload)}
        before, began = os.times(), time.perf_counter()
        done = subprocess.run(
            tool.argv, cwd=self._clone, env=env, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        wall_s, after = time.perf_counter() - began, os.times()
        if done.returncode:
            raise RuntimeError(f"{tool.label}: exit code {done.returncode}: {done.stderr[-500:]}")
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        return wall_s, cpu_s

    def _sent(self) -> int:
        return sum(record.bytes_sent for record in self._hub.ledger.requests())

    def _checked(self, wall_s: float, cpu_s: float, peak: list[int]) -> Run:
        for file in self._case.files:
            if (self._clone / file.path).stat().st_size != file.size:
                raise RuntimeError(f"{file.path} is still a pointer")
        return Run(wall_s=wall_s, cpu_s=cpu_s, sent=self._sent(), peak=max(peak))


@contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """Note what a folder takes on disk, now and then."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_EVERY_S):
            seen.append(_taken(folder))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.append(_taken(folder))


def _taken(folder: Path) -> int:
    """Return the bytes of a folder's blocks; a file with several names counts once."""
    found: dict[int, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                state = os.lstat(os.path.join(parent, name))  # called ten times a second
            except OSError:
                continue
            found[state.st_ino] = state.st_blocks * 512
    return sum(found.values())


def _text(size: int, whole: dict[str, list[Run]], killed: dict[str, list[Run]], disk: str) -> str:
    base = whole["git lfs pull"]
    lines = [
        f"{_FILES} files of {size // _FILES // MiB} MiB from the mock Hub on the same machine, into {disk}; a fresh"
        f" clone each time. The aims: {AIM_SPEED:g} times as fast, at {AIM_DISK:g} of the disk. Medians, with minimum"
        " and maximum.",
        "",
        "| command | seconds | git lfs pull takes | CPU s | peak disk, MiB | part of git lfs pull's | sent / needed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, runs in whole.items():
        speed = [one.wall_s / run.wall_s for one, run in zip(base, runs, strict=True)]
        part = [run.peak / one.peak for one, run in zip(base, runs, strict=True)]
        cells = [
            f"`{label}`" if "," not in label else f"`{label.partition(',')[0]}`,{label.partition(',')[2]}",
            spread([run.wall_s for run in runs]),
            "" if runs is base else f"{spread(speed)} x",
            spread([run.cpu_s for run in runs]),
            spread([run.peak / MiB for run in runs]),
            "" if runs is base else spread(part),
            spread([run.sent / size for run in runs]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Killed (SIGKILL) when half was sent, then run again:",
        "",
        "| command | seconds of the second run | sent in both / needed | peak disk, MiB |",
        "|---|---:|---:|---:|",
    ]
    for label, runs in killed.items():
        cells = [
            f"`{label}`",
            spread([run.wall_s for run in runs]),
            spread([run.sent / size for run in runs]),
            spread([run.peak / MiB for run in runs]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
