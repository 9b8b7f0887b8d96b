"""Who holds a lock file, in words for the one who waits; whether a lock excludes anybody is left to `owner`."""

from __future__ import annotations

import os
from pathlib import Path


def holder_of(path: Path) -> str | None:
    """Return who holds the lock file, such as ``process 4711 (`hf`)``; None where the system does not tell."""
    try:
        pid = _flock_holder(path.stat()) or _marked_holder(path)
    except OSError:
        return None
    return None if pid is None else process(pid)


def process(pid: int) -> str:
    """Return the process in words, with its name where it runs here."""
    if pid == os.getpid():
        return f"process {pid} (this one)"
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        name = ""
    return f"process {pid} (`{name}`)" if name else f"process {pid}"


def _flock_holder(file: os.stat_result) -> int | None:
    """Return the process to which the kernel lists a lock on this file."""
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # `1: FLOCK  ADVISORY  WRITE 4711 fe:00:2223054 0 EOF`; with `->` before FLOCK for one that waits.
        fields = line.split()
        if len(fields) >= 6 and fields[1] != "->" and fields[5] == place and fields[4].isdigit():
            return int(fields[4]) or None  # 0: a process that this namespace does not see
    return None


def _marked_holder(path: Path) -> int | None:
    """Return the process named in a lock that is held by being there (`SoftFileLock`), where there is no flock."""
    first = path.read_bytes()[:1024].partition(b"\n")[0].strip()
    return int(first) if first.isdigit() and len(first) < 12 else None
