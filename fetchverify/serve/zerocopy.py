"""Sends parts of files on a connection without copying them through this process: `http.response.zerocopysend`.

The ASGI extension of that name, for plain HTTP; over TLS there is nothing to save. The socket is the server's, and
is only borrowed: while nothing of the server's own waits to be written to it.
Source: https://asgi.readthedocs.io/en/latest/extensions.html#zero-copy-send.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Literal, TypeAlias

EXTENSION = "http.response.zerocopysend"

_AT_ONCE = 8 << 20  # bytes for one client before others have their turn
_DISK_ERRORS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINVAL}

Ender: TypeAlias = Literal["client", "stalled", "disk"]


class CutShortError(Exception):
    """A part of a file was not sent to its end; the connection is of no use any more.

    Attributes:
        by: who ended it: the client went away, or took nothing for too long; the file is shorter, or cannot be read.
        sent: bytes of the part that went out.
    """

    def __init__(self, by: Ender, sent: int, reason: str = "") -> None:
        super().__init__(reason)
        self.by: Ender = by
        self.sent = sent


async def send_part(
    connection: int,
    file: int,
    start: int,
    stop: int,
    *,
    stall_s: float,
    threads: Executor,
    is_gone: Callable[[], bool],
) -> None:
    """Send bytes `[start, stop)` of a file on a connection.

    In threads, because the disk may let us wait, and because the kernel's copying takes a core for itself. A thread
    never waits for a client: it sends what the socket takes, and the loop waits until it takes more.

    Args:
        connection: descriptor of a socket that does not block; stays open whatever happens to the server's own.
        file: descriptor, open for reading.
        start: of the part.
        stop: of the part.
        stall_s: a client that takes nothing for so long is given up.
        threads: that may wait for the disk.
        is_gone: tells whether the server has ended the connection.

    Raises:
        CutShortError: not all of it was sent.
    """
    loop = asyncio.get_running_loop()
    at = start
    while at < stop:
        step = loop.run_in_executor(threads, partial(_send_some, connection, file, at, stop))
        try:
            sent, trouble = await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait((step,))  # or the thread would use descriptors that are somebody else's by then
            raise
        at += sent
        if trouble is not None:
            raise CutShortError(trouble[0], at - start, trouble[1])
        if is_gone():
            raise CutShortError("client", at - start)
        if at < stop and not sent and not await _writable(connection, stall_s):
            raise CutShortError("stalled", at - start)


def _send_some(connection: int, file: int, at: int, stop: int) -> tuple[int, tuple[Ender, str] | None]:
    """Send what the socket takes at once; returns how much, and what ended it if it cannot go on."""
    first = at
    most = min(stop, at + _AT_ONCE)
    while at < most:
        try:
            sent = os.sendfile(connection, file, at, most - at)
        except BlockingIOError:
            break
        except OSError as error:
            ender: Ender = "disk" if error.errno in _DISK_ERRORS else "client"
            return at - first, (ender, os.strerror(error.errno or 0))
        if not sent:
            return at - first, ("disk", "")  # the file is shorter than it was
        at += sent
    return at - first, None


async def _writable(connection: int, most_s: float) -> bool:
    """Return whether a socket takes more, or has an error to tell, within so long."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, _set, ready)
    try:
        await asyncio.wait((ready,), timeout=most_s)
        return ready.done()
    finally:
        loop.remove_writer(connection)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
