"""The bench's end of `launch`: runs a command and returns what it took."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.bench.place import end_with_parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command took, with its children; `code` is `launch.TIMED_OUT` where it ran out of time."""

    code: int
    wall_s: float
    cpu_s: float
    peak: int
    """Most bytes of memory of its largest process."""
    output: str


class Launcher:
    """A launching process; a context manager."""

    def __init__(self) -> None:
        # -S and -I: no site packages, nothing of the user's, so that it stays small.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-I", str(Path(__file__).with_name("launch.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,
        )

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path, timeout_s: float) -> Cost:
        """Run a command to its end; what it says goes to the file `log` and comes back as text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"argv": list(argv), "env": dict(env), "log": str(log), "timeout_s": float(timeout_s)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the launching process has ended")
        return Cost(output=log.read_text(encoding="utf-8", errors="replace"), **json.loads(answer))

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
