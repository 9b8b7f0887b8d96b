"""The slow, long line before the server, compiled when it is needed; what it models is said in `line.c`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.place import end_with_parent
from tests.bench.units import MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a line is like; `mbit` is the speed of one connection."""

    rtt_ms: float = 50
    mbit: float = 200
    total_mbit: float = 0
    slow_every: int = 0
    slow_factor: float = 0.1
    lose_every: int = 0

    @property
    def bytes_a_second(self) -> float:
        """Speed of one connection."""
        return self.mbit * 1e6 / 8

    def options(self) -> list[str]:
        """Return the command line."""
        found = ["--rtt-ms", f"{self.rtt_ms}", "--mbit", f"{self.mbit}", "--total-mbit", f"{self.total_mbit}"]
        if self.slow_every:
            found += ["--slow-every", f"{self.slow_every}", "--slow-factor", f"{self.slow_factor}"]
        if self.lose_every:
            found += ["--lose-every", f"{self.lose_every}"]
        return found


_PIPES = 128  # what is on its way in 32 connections
CLEAN = Line()
NARROW = Line(total_mbit=16 * CLEAN.mbit)  # what 16 connections carry, however many there are
SLOW_ONE = Line(slow_every=8)
LOSSY = Line(lose_every=200 * MiB)


def compiler() -> str | None:
    """Return a C compiler, None where there is none."""
    return shutil.which("gcc") or shutil.which("cc")


def lacking() -> str | None:
    """Return what a line needs and is not here, None where all of it is."""
    if compiler() is None:
        return "no C compiler"
    ends: list[int] = []
    try:
        for _ in range(_PIPES):
            ends += os.pipe()
            fcntl.fcntl(ends[-1], fcntl.F_SETPIPE_SZ, MiB)
    except (OSError, AttributeError):
        return f"no right to {_PIPES} pipes of 1 MiB"
    finally:
        for end in ends:
            os.close(end)
    return None


def compile_line(work: Path) -> Path:
    """Return the program.

    Raises:
        RuntimeError: it does not compile here.
    """
    program, source = work / "line", Path(__file__).with_name("line.c")
    command = [compiler() or "cc", "-O2", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the line does not compile: {done.stderr}")
    return program


def listener(host: str) -> socket.socket:
    """Return a listening socket for a door; reno, whatever this machine prefers."""
    sock = socket.create_server((host, 0), backlog=1024)
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    return sock


@contextlib.contextmanager
def laid(program: Path, line: Line, doors: Sequence[tuple[socket.socket, str, int]]) -> Iterator[None]:
    """Have a line between the listening sockets and the addresses they lead to."""
    fds = [sock.fileno() for sock, _, _ in doors]
    where = [f"{sock.fileno()}:{host}:{port}" for sock, host, port in doors]
    process = subprocess.Popen([str(program), *line.options(), *where], pass_fds=fds, preexec_fn=end_with_parent)
    for sock, _, _ in doors:
        sock.close()
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the line broke, with code {process.returncode}")
    finally:
        process.kill()
        process.wait()
