"""Writes past the page cache, where the system can and the disk keeps up; what to write so is left to `partial`."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress

from fetchverify.errors import DiskError
from fetchverify.store.diskerrors import AnyPath
from fetchverify.store.rawdisk import RawDisk

# The largest logical block of today's disks; also the page that a buffered write beside it would share.
PAGE = 4096
# A disk that takes bytes more slowly than this makes its writers wait longer than the copy costs that is spared.
_LEAST_RATE = 200e6
_TRIED = 128 << 20  # bytes, before that is judged: a sync of the file alone may hold one write up for 0.1 s
_CANNOT = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


class DirectWriter:
    """A second descriptor of one file, for whole pages alone; thread-safe.

    Copying bytes into the page cache takes as long as hashing a third of them, and on a virtual machine, whose pages
    the host hands out at their first use, as long as hashing all of them.
    """

    def __init__(self, disk: RawDisk, path: AnyPath) -> None:
        self._disk = disk
        self._path = path
        self._fd: int | None = None
        self._able = hasattr(os, "O_DIRECT")
        self._lock = threading.Lock()
        self._bytes = 0
        self._took_s = 0.0

    def write(self, data: memoryview, offset: int) -> bool:
        """Write all of `data`, which begins on a page of memory; False where it is to be written the usual way.

        Raises:
            DiskError: the disk is full or failing.
        """
        if not self._able or offset % PAGE or len(data) % PAGE:
            return False
        fd = self._open()
        if fd is None:
            return False
        began = time.monotonic()
        try:
            self._disk.write_at(fd, data, offset)
        except DiskError as error:
            if getattr(error.__cause__, "errno", None) not in _CANNOT:
                raise
            self._able = False  # a larger page, or none at all; what did get through is written once more
            return False
        with self._lock:
            self._bytes += len(data)
            self._took_s += time.monotonic() - began
            if self._bytes >= _TRIED and self._bytes < self._took_s * _LEAST_RATE:
                self._able = False
        return True

    def _open(self) -> int | None:
        with self._lock:
            if self._fd is None and self._able:
                with suppress(DiskError):
                    self._fd = self._disk.open_rw(self._path, direct=True)
                self._able = self._fd is not None
            return self._fd

    def close(self) -> None:
        """Close the descriptor; what comes later is written the usual way."""
        with self._lock:
            self._able = False
            fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)
