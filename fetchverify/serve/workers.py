"""Keeps the process alive that serves, and ends it: a crash of one costs the answers under way, not the service."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from fetchverify.errors import UsageError

_PR_SET_PDEATHSIG = 1
_STOPS = {signal.SIGTERM, signal.SIGINT}
_AWAITED = {*_STOPS, signal.SIGCHLD}
# One that ends sooner never served; as often in a row, the next will not either.
_SHORT_S, _SHORT_LIVES = 2.0, 3
_ROOM_S = 5.0  # for an end after the last answer


def keep_alive(work: Callable[[], None], *, grace_s: float) -> None:
    """Have a process do `work`, and another whenever it dies, until SIGINT or SIGTERM.

    Args:
        work: ends by itself, soon after SIGTERM.
        grace_s: how long it may take for that.

    Raises:
        UsageError: it dies as soon as it lives.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)  # they wait until we ask for them
    try:
        short = 0
        while True:
            began = time.monotonic()
            pid = _start(work)
            if _ended(pid):
                _stop(pid, grace_s)
                return
            short = short + 1 if time.monotonic() - began < _SHORT_S else 0
            if short == _SHORT_LIVES:
                raise UsageError("the server does not start, or ends by itself; what it said stands above")
            sys.stderr.write("warning: the process that serves has ended; another takes its place\n")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ended(pid: int) -> bool:
    """Wait; return True when we are to stop, False when the process is gone by itself."""
    while True:
        if signal.sigwait(_AWAITED) in _STOPS:
            return True
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False


def _stop(pid: int, grace_s: float) -> None:
    """End the process: it finishes what is under way, and is killed when that takes too long."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s + _ROOM_S
    while os.waitpid(pid, os.WNOHANG)[0] != pid:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.02)


def _start(work: Callable[[], None]) -> int:
    """Return the id of a process that does `work`."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    return pid if pid else _live(work, parent)


def _live(work: Callable[[], None], parent: int) -> NoReturn:
    code = 1
    try:
        _die_with(parent)
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        work()
        code = 0
    except BaseException:  # nobody above: this is the whole process
        traceback.print_exc()
    finally:
        os._exit(code)  # what the parent would do at its end is not ours


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, which may be killed without a chance to tell us.

    Not by SIGTERM: a stop waits for downloads, and only the parent knows for how long.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late: it is gone already
            os._exit(1)
