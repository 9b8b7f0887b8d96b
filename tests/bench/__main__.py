"""The command line of the bench."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tests.bench import clones, core, many, mirror, place, plot, profiling, proving, report, serve, startup
from tests.bench.cases import Sizes
from tests.bench.peers import OURS, PEERS
from tests.bench.race import CASES, WAYS, Options, race
from tests.bench.units import GiB, parse_size

RESULTS = Path(__file__).with_name("results")
_ROUNDS = 3
_SIZE, _QUICK_SIZE = "2G", "64M"


def _names(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        unknown = [name for name in names if name not in allowed]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"choose of {', '.join(allowed)}")
        return names

    return parse


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog="Needs curl, openssl and, for the rest, nginx, aria2c, a C compiler and hf_transfer; what is missing is"
        " left out. As root it runs in a network namespace of its own, with reno. Run it in an environment without trio"
        " and socksio: httpcore imports them where they are, which users do not pay for.",
    )
    commands = ("race", "core", "profile", "startup", "many", "clones", "proving", "mirror", "serve", "render")
    found.add_argument("what", nargs="?", choices=commands, default="race", help="default: race, all peers")
    found.add_argument("--quick", action="store_true", help=f"{_QUICK_SIZE} and one round: does it work at all?")
    found.add_argument("--rounds", type=int, help=f"default: {_ROUNDS}")
    found.add_argument("--only", type=_names(tuple(WAYS)), default=tuple(WAYS), help=", ".join(WAYS))
    found.add_argument("--cases", type=_names(CASES), default=CASES, help=", ".join(CASES))
    peers = tuple(peer.name for peer in PEERS)
    found.add_argument("--peers", type=_names(peers), default=peers, help=", ".join(peers))
    found.add_argument("--size", help=f"of the big file; the others follow. Default: {_SIZE}")
    found.add_argument("--dir", type=Path, help="where to write; its disk is measured. Default: the temporary folder")
    found.add_argument("--python", default=sys.executable, help="interpreter with huggingface_hub and hf_transfer")
    found.add_argument("--mock", action="store_true", help="serve by the mock Hub though nginx is there")
    found.add_argument("--minutes", type=float, default=30, help="begin no round that would end later. Default: 30")
    found.add_argument("--results", type=Path, default=RESULTS, help="where table.md, plot.svg, results.json go")
    found.add_argument(
        "--files", type=_counts, default=[10_000, 100_000], help="of `many` and `proving`. Default: 10000,100000"
    )
    found.add_argument("--repos", type=int, default=5_000, help="of `mirror`. Default: 5000")
    return found


def main() -> int:
    """Run it and return the exit code: 1 where fetchverify failed or nothing could be measured."""
    arguments = parser().parse_args()
    if arguments.what == "render":
        result = report.read(arguments.results)
        report.write(result, arguments.results, plot.as_svg(result))
        return 0
    # Not `sys.exit` in a handler: the helpers are ended by their `with` blocks.
    signal.signal(signal.SIGTERM, _interrupt)
    congestion = place.enter_namespace(sys.argv[1:])
    folder = arguments.dir or Path(tempfile.gettempdir())
    size = parse_size(arguments.size or (_QUICK_SIZE if arguments.quick else _SIZE))
    arguments.results.mkdir(parents=True, exist_ok=True)
    rounds = arguments.rounds or (1 if arguments.quick else _ROUNDS)
    try:
        if arguments.what == "core":
            return core.measure(folder, size, rounds, arguments.results, _tell)
        if arguments.what == "profile":
            return profiling.measure(folder, size, arguments.results, _tell)
        if arguments.what == "startup":
            return startup.measure(arguments.python, arguments.results, _tell)
        if arguments.what == "serve":
            return serve.measure(folder, min(size, GiB), rounds, arguments.results, _tell)
        if arguments.what == "many":
            return many.measure(folder, arguments.files, arguments.results, _tell)
        if arguments.what == "clones":
            return clones.measure(folder, size, rounds, arguments.results, _tell)
        if arguments.what == "proving":
            count = max(arguments.files)
            return proving.measure(folder, size, rounds, count, arguments.python, arguments.results, _tell)
        if arguments.what == "mirror":
            return mirror.measure(folder, arguments.repos, arguments.results, _tell)
        options = Options(
            ways=arguments.only,
            cases=arguments.cases,
            peers=arguments.peers,
            rounds=rounds,
            sizes=Sizes.of(size, quick=arguments.quick),
            folder=folder,
            python=arguments.python,
            mock=arguments.mock,
            at_most_s=arguments.minutes * 60,
        )
        result = race(options, congestion, _tell)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report.write(result, arguments.results, plot.as_svg(result))
    print(report.as_markdown(result))
    return 1 if any(attempt.trouble for attempt in result.attempts if attempt.peer == OURS.name) else 0


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
