"""The machine that is raced on: its network namespace, its disk and pages, and how a report describes it."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import fcntl
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tests.bench.units import GiB, MiB

_INSIDE = "FETCHVERIFY_BENCH_NAMESPACE"
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_PR_SET_PDEATHSIG = 1
_LEFT_FREE = 512 * MiB


def enter_namespace(arguments: list[str]) -> str:
    """Go on in a network namespace of our own, where we may; return what is said of the congestion control.

    BBR, the default of some hosts, paces even loopback. The namespace ends with the process: nothing to clean up.
    """
    if os.environ.get(_INSIDE) == "1":
        _raise_loopback()
        with contextlib.suppress(OSError):
            _CONGESTION.write_text("reno")
        return f"{congestion()}, in a network namespace of its own"
    unshare = shutil.which("unshare")
    if os.geteuid() == 0 and unshare is not None:
        able = subprocess.run([unshare, "--net", "true"], capture_output=True, check=False)
        if able.returncode == 0:
            command = [unshare, "--net", "--", sys.executable, "-m", "tests.bench", *arguments]
            os.execve(unshare, command, {**os.environ, _INSIDE: "1"})
    return f"{congestion()}, as this machine has it (only root may change it)"


def congestion() -> str:
    """Return the congestion control of new sockets."""
    try:
        return _CONGESTION.read_text().strip()
    except OSError:
        return "unknown"


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        _, flags = struct.unpack("16sH22x", answer)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def end_with_parent() -> None:
    """Have the kernel end this child when the bench is killed; for `preexec_fn`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_ports(*hosts: str) -> list[int]:
    """Return a free port on each host."""
    socks = [socket.create_server((host, 0)) for host in hosts]
    ports = [int(sock.getsockname()[1]) for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def warm(folder: Path) -> None:
    """Fill the free memory with the pages of a sparse file in `folder`, and let the disk come to rest.

    A page that is free may be the host's: its first use costs a virtual machine ten times a usual one, and which tool
    pays is chance. What a tool writes takes the place of these pages instead, as on a machine that is up for long.
    """
    path = folder / "warm"
    with path.open("ab") as file:
        file.truncate(_memory("MemTotal"))
    buffer = bytearray(4 * MiB)
    with path.open("rb", buffering=0) as file:
        while _memory("MemFree") > _LEFT_FREE and file.readinto(buffer):
            pass
    os.sync()


def _memory(name: str) -> int:
    """Return a line of /proc/meminfo in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def memory_available() -> int:
    """Return bytes that may be used without swapping."""
    return _memory("MemAvailable")


def describe(folder: Path) -> dict[str, str]:
    """Return the facts that a figure is worth nothing without."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GiB:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "disk": _disk(folder),
    }


def disk_speed(folder: Path, size: int) -> float:
    """Return the bytes per second that a fresh file is written and synced at."""
    import time

    path, piece = folder / "speed", os.urandom(4 * MiB)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())
    took_s = time.perf_counter() - began
    path.unlink()
    return size / took_s


def version(argv: list[str]) -> str:
    """Return the first number with dots that a command says."""
    import re

    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    found = re.search(r"\d+(\.\d+)+\w*", said.stdout + said.stderr)
    return found[0] if found else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _disk(folder: Path) -> str:
    """Return the kind of file system that a folder lies on."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, where, kind = line.split()[:3]
        if folder.resolve().is_relative_to(where) and len(where) >= len(best[0]):
            best = (where, f"{kind} on {device.removeprefix('/dev/')}" if device.startswith("/dev/") else kind)
    return best[1]
