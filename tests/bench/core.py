"""How close the engine comes to one core's sha256, in process, with one big file."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import place, site
from tests.bench.cases import Shelf, Sizes, cases_of
from tests.bench.line import compiler
from tests.bench.measure import Launcher
from tests.bench.peers import Order, compile_nosync
from tests.bench.race import workshop
from tests.bench.units import GiB, spread

AIM = 0.85
MEMORY = Path("/dev/shm")


def measure(folder: Path, size: int, rounds: int, results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `core.md`; return the exit code."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    with workshop(folder, 3 * size) as (work, shelf_folder, _), Launcher() as launcher:
        shelf = Shelf(shelf_folder)
        case = cases_of(shelf, Sizes.of(size, quick=True), ["big"])[0]
        targets: list[tuple[str, Path, Path | None]] = [("to the disk, with fsync", work, None)]
        if (nosync := compile_nosync(work, compiler())) is not None:
            targets.append(("to the disk, its fsync made void", work, nosync))
        if MEMORY.is_dir() and place.memory_available() > 4 * size:
            targets.append(("to memory (tmpfs)", MEMORY, None))
        with site.opened(work, shelf, [case], [site.PLAIN]) as server:
            for number in range(rounds):
                for name, target, preload in random.sample(targets, len(targets)):
                    with tempfile.TemporaryDirectory(prefix="fetchverify-bench-", dir=target) as out:
                        place.warm(Path(out))
                        order = Order(
                            case=case,
                            commit=shelf.commit(case),
                            endpoint=server.endpoints["plain"],
                            ca=None,
                            out=Path(out),
                            connections=16,
                        )
                        env = order.env(**({"LD_PRELOAD": str(preload)} if preload is not None else {}))
                        url = f"{order.endpoint}/{case.repo_id}/resolve/{order.commit}/{case.files[0].path}"
                        asked = {
                            "inside": [order.endpoint, case.repo_id, out, str(size)],
                            "bare": [url, out, str(size)],
                        }
                        said: dict[str, float] = {}
                        for module in random.sample(list(asked), len(asked)):
                            argv = [sys.executable, "-m", f"tests.bench.{module}", *asked[module]]
                            cost = launcher.run(argv, env=env, log=work / "said", timeout_s=60 + size / 20e6)
                            shutil.rmtree(out, ignore_errors=True)
                            Path(out).mkdir()
                            if cost.code:
                                raise RuntimeError(f"{name}, {module}: {cost.output}")
                            said |= json.loads(cost.output.splitlines()[-1])
                    found.setdefault(name, []).append((said["engine"], said["sha256"], said["bare"]))
                    figures = " ".join(f"{what} {rate / 1e9:.2f}" for what, rate in said.items())
                    tell(f"{number + 1}. {name}: {figures} GB/s")
    lines = [
        f"One file of {size / GiB:g} GiB over plain HTTP, in process, against one core's sha256 (1 MiB at a time,"
        " measured before and after in the same process) and against the ceiling of this machine: one bare socket,"
        " one file, one hash in two threads (`bare.py`), the server on the same cores. Medians, with minimum and"
        " maximum.",
        "",
        f"| target | engine, GB/s | sha256, GB/s | part of it (aim: {AIM}) | bare, GB/s | part of it |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, _, _ in targets:
        values = found[name]
        engine, sha256, bare = ([value[column] / 1e9 for value in values] for column in range(3))
        of_hash = [engine / sha256 for engine, sha256, _ in values]
        of_bare = [engine / bare for engine, _, bare in values]
        cells = [name, *map(spread, (engine, sha256, of_hash, bare, of_bare))]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join([*lines, ""])
    (results / "core.md").write_text(text, encoding="utf-8")
    print(text)
    return 0
