"""Runs the command line in a process that meets its end before one of its writes.

`python -m tests.crash.doomed FATE N -- get org/model`: FATE is `kill` (SIGKILL before the Nth operation) or the mount
point whose power is cut there; the process then goes on and has to find out by itself. Where N is odd, it writes past
the page cache what it can.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fetchverify import cli
from fetchverify.store.rawdisk import RawDisk
from tests import swift
from tests.mounts import cut_power

WRITES = (
    *("create", "open_rw", "open_append", "preallocate", "write_at", "append", "truncate", "clone_into", "copy_into"),
    *("fsync", "fsync_path", "fsync_dir"),
    *("make_dirs", "make_dir", "rename", "link", "make_symlink", "unlink", "remove_dir", "set_mode"),
)


def arm(strike: Callable[[], None], after: int) -> None:
    """Have `strike` called before the operation with this number, counted from 1."""
    counter = itertools.count(1)

    def armed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(counter) == after:
                strike()
            return method(*args, **kwargs)

        return call

    for name in WRITES:
        setattr(RawDisk, name, armed(getattr(RawDisk, name)))


if __name__ == "__main__":
    fate, number, _, *words = sys.argv[1:]
    if int(number) % 2:
        swift.force()
    if fate == "kill":
        arm(lambda: os.kill(os.getpid(), signal.SIGKILL), int(number))
    else:
        arm(lambda: cut_power(Path(fate)), int(number))
    cli.main(words)
