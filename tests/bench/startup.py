"""CPU seconds from the shell to the help text."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.measure import Cost, Launcher
from tests.bench.units import MiB, spread

AIM_S = 0.15
_TIMES = 15


def measure(python: str, results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `startup.md`; return the exit code."""
    ours, hf = Path(sys.executable).with_name("fetchverify"), Path(python).with_name("hf")
    ours_argv = [str(ours)] if ours.exists() else [sys.executable, "-m", "fetchverify"]
    commands = {
        "fetchverify --help": [*ours_argv, "--help"],
        "fetchverify get --help": [*ours_argv, "get", "--help"],
        "hf --help": [str(hf), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="fetchverify-bench-") as work, Launcher() as launcher:
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": work, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        for _ in range(_TIMES + 1):  # the first only brings files into the page cache
            for name, argv in commands.items():
                try:
                    cost = launcher.run(argv, env=env, log=Path(work) / "said", timeout_s=60)
                except RuntimeError:
                    raise RuntimeError(f"`{argv[0]}` cannot be run") from None
                if cost.code:
                    raise RuntimeError(f"{name}: {cost.output}")
                found[name].append(cost)
    tell(f"{_TIMES} runs each")
    lines = [
        f"CPU seconds of whole processes over {_TIMES} runs; the aim for `fetchverify --help` is below {AIM_S}.",
        "",
        "| command | CPU s | wall s | peak MiB |",
        "|---|---:|---:|---:|",
    ]
    for name, costs in found.items():
        cpu, wall = [cost.cpu_s for cost in costs[1:]], [cost.wall_s for cost in costs[1:]]
        lines.append(f"| `{name}` | {spread(cpu)} | {spread(wall)} | {max(c.peak for c in costs) / MiB:.0f} |")
    text = "\n".join([*lines, ""])
    (results / "startup.md").write_text(text, encoding="utf-8")
    print(text)
    return 0
