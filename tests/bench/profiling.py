"""Where the time of a download goes: the samples of `perf` in a run of `get`, by what they were taken in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import place, site
from tests.bench.cases import Shelf, Sizes, cases_of
from tests.bench.line import lacking
from tests.bench.measure import Cost, Launcher
from tests.bench.peers import OURS, Order, Tools
from tests.bench.race import CONNECTIONS, workshop
from tests.bench.site import Way
from tests.bench.units import GiB, significant

_HERTZ = 997
_KERNEL = "[kernel"
# By the first that fits. A stack is `symbol (object)` a frame, joined by `;`, where the sample was taken first.
_PARTS = {
    "kernel: copy out of the socket": r"^(_?copy_to_iter|rep_movs_alternative|copy_user\w*)\b.*\btcp_recvmsg",
    "kernel: TCP, and what wakes its readers": r"\b(tcp_\w+|net_rx_action|\w*sock_(recv|send)msg|\w*epoll_wait"
    r"|do_sys_poll|__sys_(connect|socket|[gs]etsockopt))\b",
    "kernel: writing and syncing files": r"\b(vfs_write|vfs_fallocate|(do|vfs)_fsync\w*|blk_\w+|ext4_\w+|xfs_\w+"
    r"|btrfs_\w+|iomap_\w+)\b",
    "kernel: reading files again": r"\bvfs_read\b|\bdo_iter_readv\w*\b|\bfilemap_read\b",
    "kernel: pages for memory": r"\b(asm_exc_page_fault|do_munmap|exit_mmap"
    r"|__x64_sys_(mmap|munmap|mprotect|brk|madvise))\b",
    "kernel: locks between threads": r"\bdo_futex\b",
    "kernel: the rest": r"\[kernel",
    "sha256; over TLS also what decrypts": r"^[^;]*\(\S*libcrypto",
    "TLS": r"^[^;]*\(\S*(libssl|_ssl\.)",
    "xxh3": r"^[^;]*\(\S*xxhash",
    "Python": r"^[^;]*\(\S*python",
    "the rest": "",
}
_SORTED = {label: re.compile(pattern) for label, pattern in _PARTS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One download under `perf`; `samples` by what they were taken in, `idle` cores on the whole machine."""

    about: str
    size: int
    cost: Cost
    samples: Counter[str]
    idle: float


def measure(folder: Path, size: int, results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `profile.md`; return the exit code.

    Raises:
        RuntimeError: there is no `perf`, or it may not look at the kernel.
    """
    if shutil.which("perf") is None:
        raise RuntimeError("perf is not installed")
    runs = []
    with workshop(folder, size + GiB) as (work, shelf_folder, _), Launcher() as launcher:
        shelf = Shelf(shelf_folder)
        big, small = cases_of(shelf, Sizes.of(size, quick=False), ["big", "small"])
        ways = [site.PLAIN, site.TLS, *([site.FAR] if lacking() is None else [])]
        with site.opened(work, shelf, [big, small], ways) as server:
            for way, case in [*((way, big) for way in ways), (site.PLAIN, small)]:
                out = work / f"{way.name}-{case.name}"
                out.mkdir()
                place.warm(work)
                order = Order(
                    case=case,
                    commit=shelf.commit(case),
                    endpoint=server.endpoints[way.name],
                    ca=server.ca if way.tls else None,
                    out=out,
                    connections=CONNECTIONS,
                )
                runs.append(_run(order, way, launcher, work))
                tell(f"{runs[-1].about}: {runs[-1].cost.wall_s:.1f} s")
    text = _text(runs)
    (results / "profile.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _run(order: Order, way: Way, launcher: Launcher, work: Path) -> _Run:
    (step,) = OURS.steps(order, Tools(python="", nosync=None))
    record = ["perf", "record", "-q", "-g", "-F", str(_HERTZ), "-e", "cpu-clock", "-o", str(work / "perf.data"), "--"]
    before = _idle_s()
    cost = launcher.run([*record, *step.argv], env=step.env, log=work / "said", timeout_s=900)
    idle = (_idle_s() - before) / cost.wall_s
    if cost.code:
        raise RuntimeError(f"{way.about}: exit code {cost.code}: {cost.output[-500:]}")
    samples = Counter(_part(stack) for stack in _stacks(work / "perf.data"))
    return _Run(about=f"{way.about}: {order.case.about}", size=order.case.size, cost=cost, samples=samples, idle=idle)


def _stacks(data: Path) -> Iterator[str]:
    """Yield the stack of each sample."""
    command = ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if _KERNEL not in said:
        raise RuntimeError("perf saw nothing of the kernel")
    for stack in said.split("\n\n"):
        frames = [line.split(None, 1)[-1] for line in stack.splitlines() if line.strip()]
        if frames:
            yield ";".join(frames)


def _part(stack: str) -> str:
    return next(label for label, pattern in _SORTED.items() if pattern.search(stack))


def _idle_s() -> float:
    """Return the seconds that all cores together were idle, or waited for a disk, since the machine began."""
    all_cores = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(all_cores[4]) + int(all_cores[5])) / os.sysconf("SC_CLK_TCK")


def _text(runs: list[_Run]) -> str:
    lines = [
        f"Where the processor was in one run of `fetchverify get` each, by `perf record -F {_HERTZ}`: CPU seconds per"
        " GB, its part of the run's. The server, and over the line its emulator, have the rest of the cores.",
        "",
        "| | " + " | ".join(run.about for run in runs) + " |",
        "|---" + "|---:" * len(runs) + "|",
    ]
    for label in _PARTS:
        if any(run.samples[label] for run in runs):
            lines.append(f"| {label} | {' | '.join(_cell(run, run.samples[label]) for run in runs)} |")
    lines.append(f"| all | {' | '.join(_cell(run, run.samples.total()) for run in runs)} |")
    rates = (significant(run.size / run.cost.wall_s / 1e6) for run in runs)
    lines.append(f"| verified, MB/s (`perf` slows it down) | {' | '.join(rates)} |")
    lines.append(f"| cores that nobody used | {' | '.join(significant(run.idle) for run in runs)} |")
    return "\n".join([*lines, ""])


def _cell(run: _Run, samples: int) -> str:
    seconds = samples / _HERTZ / (run.size / 1e9)
    return f"{significant(seconds)} ({samples / max(1, run.samples.total()):.0%})"
