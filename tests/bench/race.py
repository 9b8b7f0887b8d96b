"""What runs when: every peer on every case by every way, shuffled, round by round; and whether each did its work."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import place, site
from tests.bench.cases import Case, Promised, Shelf, Sizes, bad_case, cases_of, stream_case
from tests.bench.launch import TIMED_OUT
from tests.bench.line import compiler, lacking
from tests.bench.measure import Launcher
from tests.bench.peers import OURS, PEERS, UNSYNCED, Order, Peer, StepKind, Tools, compile_nosync
from tests.bench.site import Site, Way
from tests.bench.units import MiB

WAYS = {"plain": (site.PLAIN,), "tls": (site.TLS,), "line": (site.FAR, site.WIDE), "bad": site.BAD}
CASES = ("big", "four", "small")
_KEPT = 64 * MiB  # until the end: ext4 is slow to make files where some were removed in the last minutes
LONG = "long"
"""Goes with `big` over the line: a file so long that starting up does not count."""
CONNECTIONS, MORE_CONNECTIONS = 16, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to race.

    Attributes:
        ways: keys of `WAYS`.
        cases: of `CASES`.
        peers: names; fetchverify always runs.
        rounds: how often.
        sizes: how much.
        folder: where to write; its disk is the one that is measured.
        python: the interpreter that has `huggingface_hub` and `hf_transfer`.
        mock: serve by the mock Hub though nginx is there.
        at_most_s: begin no round that would not end by then, judged by those before.
        seed: of the shuffling.
    """

    ways: tuple[str, ...]
    cases: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int
    sizes: Sizes
    folder: Path
    python: str
    mock: bool
    at_most_s: float
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What one step of an attempt took."""

    kind: StepKind
    wall_s: float
    cpu_s: float
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of one peer; `trouble` is empty where it fetched and proved everything."""

    way: str
    case: str
    peer: str
    round: int
    size: int
    connections: int
    steps: tuple[Took, ...]
    trouble: str = ""

    def wall_s(self, *kinds: StepKind) -> float:
        """Return the seconds of these steps together."""
        return sum(step.wall_s for step in self.steps if step.kind in kinds)

    @property
    def verified_rate(self) -> float:
        """Bytes per second from nothing to every byte proved, processes and all."""
        return self.size / self.wall_s("fetch", "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """One run that is due: who, what, by which way."""

    way: Way
    case: Case
    peer: Peer
    connections: int = CONNECTIONS
    shown_case: str = ""
    """The case in whose table this stands."""

    @property
    def shown_peer(self) -> str:
        """The row in which this stands."""
        return self.peer.name if self.connections == CONNECTIONS else f"{self.peer.name} x{self.connections}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All attempts, and what a reader must know of them."""

    header: dict[str, str]
    cases: dict[str, str]
    attempts: tuple[Attempt, ...]


@contextlib.contextmanager
def workshop(folder: Path, need: int) -> Iterator[tuple[Path, Path, str]]:
    """Make a folder for what is written and one for what is served, in memory where that is safe; remove both."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fetchverify-bench-", dir=folder)))
        memory = Path("/dev/shm")
        if memory.is_dir() and shutil.disk_usage(memory).free > need and place.memory_available() > 3 * need // 2:
            shelf = stack.enter_context(tempfile.TemporaryDirectory(prefix="fetchverify-bench-", dir=memory))
            yield work, Path(shelf), "memory"
        else:
            shelf = stack.enter_context(tempfile.TemporaryDirectory(prefix="fetchverify-bench-", dir=folder))
            yield work, Path(shelf), "page cache"


def race(options: Options, congestion: str, tell: Callable[[str], None]) -> Result:
    """Run it all and return what it took.

    Raises:
        RuntimeError: the server or the line did not start.
    """
    began = time.monotonic()
    with workshop(options.folder, 7 * options.sizes.big) as (work, shelf_folder, kept), Launcher() as launcher:
        tools = Tools(python=options.python, nosync=compile_nosync(work, compiler()))
        versions = {peer.name: peer.version(tools) for peer in PEERS if peer.name in {OURS.name, *options.peers}}
        for name in (name for name, version in versions.items() if not version):
            tell(f"{name} is not installed: left out")
        peers = [peer for peer in PEERS if versions.get(peer.name)]
        shelf = Shelf(shelf_folder)
        heats, cases = _heats(shelf, options, peers, tell)
        ways = list({heat.way.name: heat.way for heat in heats}.values())
        with site.opened(work, shelf, cases, ways, mock=options.mock) as server:
            header = {
                **place.describe(work),
                "written at": f"{place.disk_speed(work, 512 * MiB) / 1e6:.0f} MB/s with fsync, 512 MiB, before the run",
                "fsync": "fetchverify syncs all it publishes, aria2c what it fetches in pieces; the rest leave it to"
                " the kernel: `sync` of their files is timed after them, by plain HTTP",
                "congestion control": congestion,
                "server": server.server.replace("in memory", f"in the {kept}" if kept != "memory" else "in memory"),
                "connections": f"{CONNECTIONS}, for all that can be told",
                "versions": ", ".join(f"{name} {number}" for name, number in versions.items() if name != "unsynced"),
            }
            ground = _Ground(work=work, launcher=launcher, server=server, shelf=shelf, tools=tools)
            attempts = _run_rounds(heats, ground, options, began, tell)
    took_s = time.monotonic() - began
    header["rounds"] = str(1 + max((attempt.round for attempt in attempts), default=-1))
    header["took"] = f"{took_s / 60:.0f} min"
    return Result(header=header, cases={case.name: case.about for case in cases}, attempts=tuple(attempts))


def _heats(
    shelf: Shelf, options: Options, peers: list[Peer], tell: Callable[[str], None]
) -> tuple[list[Heat], list[Case]]:
    ways = set(options.ways)
    if ways & {"line", "bad"} and (why := lacking()) is not None:
        tell(f"{why}: the lines are left out")
        ways -= {"line", "bad"}
    heats: list[Heat] = []
    cases: list[Case] = []
    if ways & {"plain", "tls"}:
        near = cases_of(shelf, options.sizes, options.cases)
        cases += near
        for way in (way for key in ("plain", "tls") if key in ways for way in WAYS[key]):
            heats += [Heat(way=way, case=case, peer=peer) for case in near for peer in peers]
    if "line" in ways:
        far = cases_of(shelf, options.sizes, [*options.cases, *([LONG] if "big" in options.cases else [])])
        stream = stream_case(shelf, options.sizes)
        cases += [*(case for case in far if case not in cases), stream]
        for case in far:
            for peer in (peer for peer in peers if peer is not UNSYNCED):  # the line, not the disk, is the limit
                fetched = stream if peer.streams == 1 and len(case.files) == 1 else case
                heats.append(Heat(way=site.FAR, case=fetched, peer=peer, shown_case=case.name))
            if case.name == LONG:
                heats.append(Heat(way=site.WIDE, case=case, peer=OURS, connections=MORE_CONNECTIONS))
    if "bad" in ways:
        bad = bad_case(shelf, options.sizes)
        cases.append(bad)
        # One connection can be no faster than one: only those that use many can win here.
        for peer in (peer for peer in peers if peer.streams is None and peer is not UNSYNCED):
            heats += [Heat(way=way, case=bad, peer=peer) for way in site.BAD]
            if not peer.cached:  # somebody who knows the server's limit
                heats.append(Heat(way=site.BUSY, case=bad, peer=peer, connections=site.BUSY_ABOVE))
    return heats, cases


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    work: Path
    launcher: Launcher
    server: Site
    shelf: Shelf
    tools: Tools


def _run_rounds(
    heats: list[Heat], ground: _Ground, options: Options, began: float, tell: Callable[[str], None]
) -> list[Attempt]:
    chance = random.Random(options.seed)
    blocks: dict[tuple[str, str], list[Heat]] = {}
    for heat in heats:
        blocks.setdefault((heat.way.name, heat.shown_case or heat.case.name), []).append(heat)
    attempts: list[Attempt] = []
    longest_s = 0.0
    for number in range(options.rounds):
        round_began = time.monotonic()
        if number and round_began - began + longest_s > options.at_most_s:
            tell(f"no time for more than {number} of {options.rounds} rounds")
            break
        # Whole blocks, shuffled within: those that are compared run close together.
        order = list(blocks)
        chance.shuffle(order)
        for key in order:
            for heat in chance.sample(blocks[key], len(blocks[key])):
                attempt = _attempt(heat, ground, number)
                attempts.append(attempt)
                tell(_line_of(attempt))
        longest_s = max(longest_s, time.monotonic() - round_began)
    return attempts


def _line_of(attempt: Attempt) -> str:
    what = f"{attempt.round + 1}. {attempt.way:6} {attempt.case:10} {attempt.peer:15}"
    if attempt.trouble:
        return f"{what} failed: {attempt.trouble}"
    steps = ", ".join(f"{step.kind} {step.wall_s:.2f} s" for step in attempt.steps)
    return f"{what} {attempt.verified_rate / 1e6:8.1f} MB/s  ({steps})"


def _attempt(heat: Heat, ground: _Ground, number: int) -> Attempt:
    out = Path(tempfile.mkdtemp(prefix="out-", dir=ground.work))
    place.warm(ground.work)
    order = Order(
        case=heat.case,
        commit=ground.shelf.commit(heat.case),
        endpoint=ground.server.endpoints[heat.way.name],
        ca=ground.server.ca if heat.way.tls else None,
        out=out,
        connections=heat.connections,
    )
    steps: list[Took] = []
    trouble = ""
    # Longer than the slowest that was seen, by far; a hang must not cost the whole run.
    timeout_s = 60 + heat.case.size * 6 / 100e6
    for step in heat.peer.steps(order, ground.tools):
        if step.kind == "sync" and heat.way != site.PLAIN:
            continue  # the same everywhere; once is enough
        cost = ground.launcher.run(step.argv, env=step.env, log=ground.work / "said", timeout_s=timeout_s)
        steps.append(Took(kind=step.kind, wall_s=cost.wall_s, cpu_s=cost.cpu_s, peak=cost.peak))
        trouble = _trouble(step.kind, cost.code, cost.output, order)
        if trouble:
            break
    if not trouble:
        where = order.cached if heat.peer.cached else order.plain
        trouble = _check(order, where, deep=number == 0)
    if heat.case.size > _KEPT:
        shutil.rmtree(out, ignore_errors=True)
    return Attempt(
        way=heat.way.name,
        case=heat.shown_case or heat.case.name,
        peer=heat.shown_peer,
        round=number,
        size=heat.case.size,
        connections=heat.connections,
        steps=tuple(steps),
        trouble=trouble,
    )


def _trouble(kind: StepKind, code: int, output: str, order: Order) -> str:
    if code == TIMED_OUT:
        return f"{kind}: no end in sight"
    if code:
        lines = [line for line in output.splitlines() if line.strip()] or ["no word"]
        said = lines[-1].replace(str(order.out), "…")
        return f"{kind}: exit code {code}: {said[:200]}"
    if kind == "hash":
        missing = [file.path for file in order.case.files if file.sha256 not in output]
        if missing:
            return f"hash: `{missing[0]}` is not what was promised"
    return ""


def _check(order: Order, where: Callable[[Promised], Path], *, deep: bool) -> str:
    """Look at what a peer left behind; once a peer, byte by byte and on our own."""
    for file in order.case.files:
        path = where(file)
        if not path.exists() or path.stat().st_size != file.size:
            return f"`{file.path}` is missing or of another size"
        if deep:
            with path.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                    return f"`{file.path}` is not what was promised, and nobody said so"
    return ""
