"""Runs one command at a time and reports wall time, CPU time and peak memory of it and its children (wait4).

A process of its own, and one that imports next to nothing, because Linux counts the memory of the parent at the
moment of the fork to the child's peak. Reads jobs as JSON lines and answers each with one; `measure` is the other end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

TIMED_OUT = -1


def _run(job: dict[str, object], running: list[int]) -> dict[str, object]:
    argv, env, log, timeout_s = job["argv"], job["env"], job["log"], job["timeout_s"]
    assert isinstance(argv, list)
    assert isinstance(env, dict)
    assert isinstance(log, str)
    assert isinstance(timeout_s, float)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    late = False

    def kill(number: int, frame: object) -> None:
        nonlocal late
        late = True
        os.killpg(running[0], signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    began = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions, setpgroup=0, setsigdef=[signal.SIGINT])
    running.append(pid)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - began
    signal.setitimer(signal.ITIMER_REAL, 0)
    running.clear()
    code = TIMED_OUT if late else os.waitstatus_to_exitcode(status)
    return {"code": code, "wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}


def _serve() -> None:
    running: list[int] = []

    def stop(number: int, frame: object) -> None:
        for pid in running:
            os.killpg(pid, signal.SIGKILL)
        sys.exit(1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the bench's to handle
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), running)), flush=True)


if __name__ == "__main__":
    _serve()
