"""Waits until an unfinished file is ours, and tells for whom; what others published meanwhile is left to `transfer`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from fetchverify import events
from fetchverify.core.manifest import RemoteFile
from fetchverify.engine.publish import Publisher
from fetchverify.engine.run import Run
from fetchverify.errors import LockedError
from fetchverify.store.disk import Disk
from fetchverify.store.partial import Partial

_LOOK_AGAIN_S = 0.25
_TELL_EVERY_S = 1.0


async def await_partial(
    run: Run, publisher: Publisher, disk: Disk, area: Path, file: RemoteFile, arrived: Callable[[bool], Awaitable[bool]]
) -> Partial | None:
    """Return the file's partial as soon as nobody else downloads it; None where that became needless.

    Args:
        run: says how long to wait.
        publisher: lends its threads.
        disk: the door.
        area: where partials lie.
        file: what is to be fetched.
        arrived: whether the file was published since it was planned; asked before anything is fetched, and told
            whether there was somebody to wait for.

    Raises:
        LockedError: the time is up.
        DiskError: the disk is full, read-only or failing.
    """
    began = anyio.current_time()
    told = -1.0
    partial: Partial | None = None
    while partial is None:
        try:
            partial = await publisher.in_thread(lambda: Partial.open(disk, area, file.digest, file.size))
        except LockedError as error:
            waited_s = anyio.current_time() - began
            limit_s = run.options.lock_timeout_s
            if limit_s is not None and waited_s >= limit_s:
                message = f"{error.holder} downloads `{file.path}`, and did not end within {waited_s:.1f} s"
                raise LockedError(message, hint=error.hint, holder=error.holder) from error
            if told < 0 or waited_s - told >= _TELL_EVERY_S:
                told = waited_s
                what = f"{error.holder}, which downloads `{file.path}`"
                run.emit(events.Waiting(what=what, wait_s=None, waited_s=round(waited_s, 1)))
            await anyio.sleep(_LOOK_AGAIN_S)
    # Asked while the partial is ours: whoever had it before has published by now, or never will.
    try:
        needless = await arrived(told >= 0)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await publisher.in_thread(partial.close)
        raise
    if needless:
        await publisher.in_thread(partial.discard)
        return None
    return partial
