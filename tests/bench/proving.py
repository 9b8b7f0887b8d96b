"""`verify` and `fix-cache` against what people use: sha256sum, openssl, `hf cache verify`, `cat`, a new download."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mock_server import MockHub, many_small_files
from tests.bench import place
from tests.bench.cases import Shelf
from tests.bench.measure import Cost, Launcher
from tests.bench.race import workshop
from tests.bench.units import GiB, MiB, spread

AIM_AGAIN_S = 2.0
_FILES = 8
_TIMEOUT_S = 900.0
_BLOCK = 8 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A command that reads all of a cache."""

    label: str
    argv: tuple[str, ...]


def measure(
    folder: Path, size: int, rounds: int, count: int, python: str, results: Path, tell: Callable[[str], None]
) -> int:
    """Print the figures and write them to `proving.md`; return the exit code."""
    parts = []
    with workshop(folder, 5 * size) as (work, shelf_folder, _), Launcher() as launcher:
        shelf = Shelf(shelf_folder)
        names = [(f"model-{number:05d}.safetensors", 4 * size // _FILES) for number in range(1, _FILES + 1)]
        case = shelf.add("cache", "", names, lfs=True)
        one = shelf.add("one", "", [("model.safetensors", size)], lfs=True)
        shelf.world.add("bench/many", many_small_files(count))
        with MockHub(shelf.world) as hub:
            bench = _Bench(launcher, hub, work, python)
            parts.append(bench.compare(case.repo_id, case.size, rounds, tell))
            parts.append(bench.again(count, tell))
            parts.append(bench.repair(one.repo_id, size, rounds, tell))
        disk = place.describe(work)["disk"]
    text = "\n".join(
        [f"Whole processes; the cache lies on {disk}, in the page cache. Medians, with range.", "", *parts]
    )
    (results / "proving.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


class _Bench:
    def __init__(self, launcher: Launcher, hub: MockHub, work: Path, python: str) -> None:
        self._launcher = launcher
        self._hub = hub
        self._work = work
        self._hf = str(Path(python).with_name("hf"))
        self._cache = work / "hub"
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(work),
            "HF_HOME": str(work),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def _run(self, *argv: str, codes: tuple[int, ...] = (0,)) -> Cost:
        cost = self._launcher.run(argv, env=self._env, log=self._work / "said", timeout_s=_TIMEOUT_S)
        if cost.code not in codes:
            raise RuntimeError(f"{' '.join(argv[:6])}: exit code {cost.code}: {cost.output[-500:]}")
        return cost

    def _ours(self, *words: str, codes: tuple[int, ...] = (0,)) -> Cost:
        return self._run(sys.executable, "-m", "fetchverify", *words, "-q", codes=codes)

    def compare(self, repo_id: str, size: int, rounds: int, tell: Callable[[str], None]) -> str:
        """Read all of a cache, in each way."""
        self._ours("get", repo_id)
        blobs = self._cache / f"models--{repo_id.replace('/', '--')}" / "blobs"
        each = f"find {blobs} -type f | xargs -P {os.cpu_count()} -n 1"
        ours = (sys.executable, "-m", "fetchverify", "verify", repo_id, "-q")
        ways = [
            Way(label="fetchverify verify --deep --offline", argv=(*ours, "--deep", "--offline")),
            Way(label="fetchverify verify --deep", argv=(*ours, "--deep")),
            Way(label="xargs -P openssl dgst -sha256", argv=("sh", "-c", f"{each} openssl dgst -sha256")),
            Way(label="xargs -P sha256sum", argv=("sh", "-c", f"{each} sha256sum")),
            Way(label="hf cache verify", argv=(self._hf, "cache", "verify", repo_id)),
            Way(label="fetchverify verify --quick --offline", argv=(*ours, "--quick", "--offline")),
            Way(label="cat", argv=("sh", "-c", f"cat {blobs}/* > /dev/null")),
            Way(label="fetchverify verify --offline, proved before", argv=(*ours, "--offline")),
        ]
        found: dict[str, list[Cost]] = {way.label: [] for way in ways}
        for number in range(rounds):
            for way in random.sample(ways, len(ways)):
                found[way.label].append(self._run(*way.argv))
                tell(f"{number + 1}. {way.label}: {found[way.label][-1].wall_s:.2f} s")
        lines = [
            f"{_FILES} files of {size // _FILES // MiB} MiB:",
            "",
            "| command | GB/s | seconds | CPU s | peak MiB |",
            "|---|---:|---:|---:|---:|",
        ]
        for way in ways:
            costs = found[way.label]
            cells = [
                f"`{way.label}`" if "," not in way.label else way.label,
                spread([size / 1e9 / cost.wall_s for cost in costs]),
                spread([cost.wall_s for cost in costs]),
                spread([cost.cpu_s for cost in costs]),
                f"{max(cost.peak for cost in costs) / MiB:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, ""])

    def again(self, count: int, tell: Callable[[str], None]) -> str:
        """Look once more at what did not change since it was proved."""
        self._ours("get", "bench/many")
        told = []
        for way in ((), ("--offline",)):
            words = ("verify", "bench/many", *way)
            first = self._ours(*words)
            costs = [self._ours(*words) for _ in range(5)]
            tell(f"{count:,} files again: {' '.join(words)}: {costs[-1].wall_s:.2f} s")
            walls, peak = spread([cost.wall_s for cost in costs]), max(cost.peak for cost in costs) / MiB
            told.append(f"`fetchverify {' '.join(words)}` {walls} s and {peak:.0f} MiB (first {first.wall_s:.2f} s)")
        return (
            f"A cache of {count:,} files that did not change since a run found all of them good: {', '.join(told)};"
            f" the aim: {AIM_AGAIN_S:g} s.\n"
        )

    def repair(self, repo_id: str, size: int, rounds: int, tell: Callable[[str], None]) -> str:
        """Flip one byte of a large file and mend it, against deleting and fetching it."""
        ours: list[tuple[Cost, int]] = []
        theirs: list[tuple[Cost, int]] = []
        repo = self._cache / f"models--{repo_id.replace('/', '--')}"
        shutil.rmtree(repo, ignore_errors=True)
        self._ours("get", repo_id)
        for number in range(rounds):
            (blob,) = (repo / "blobs").iterdir()
            with blob.open("r+b") as file:
                file.seek(size // 2)
                byte = file.read(1)
                file.seek(size // 2)
                file.write(bytes([byte[0] ^ 1]))
            self._hub.ledger.clear()
            ours.append((self._ours("fix-cache", repo_id), self._sent()))
            tell(f"{number + 1}. fix-cache: {ours[-1][0].wall_s:.2f} s, {ours[-1][1]:,} bytes")
        for number in range(rounds):
            shutil.rmtree(repo)
            self._hub.ledger.clear()
            theirs.append((self._run(self._hf, "download", repo_id), self._sent()))
            tell(f"{number + 1}. hf download: {theirs[-1][0].wall_s:.2f} s, {theirs[-1][1]:,} bytes")
        lines = [
            f"One flipped byte in a file of {size / GiB:g} GiB, found and mended:",
            "",
            "| command | seconds | bytes sent by the server |",
            "|---|---:|---:|",
        ]
        for label, runs in (("`fetchverify fix-cache`", ours), ("`hf download`, after the file was deleted", theirs)):
            sent = spread([number / MiB for _, number in runs])
            lines.append(f"| {label} | {spread([cost.wall_s for cost, _ in runs])} | {sent} MiB |")
        return "\n".join([*lines, ""])

    def _sent(self) -> int:
        return sum(record.bytes_sent for record in self._hub.ledger.requests())
