"""One file of at most 1 MiB: fetched into memory by one request and hashed there; publishing is left to `transfer`."""

from __future__ import annotations

import anyio
import anyio.to_thread

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, Reason, Stop
from fetchverify.engine.run import Run
from fetchverify.net.transport import TransferError


async def fetch_small(run: Run, file: RemoteFile) -> bytes | Failure:
    """Return the file's bytes, unproved, or why they could not be had."""
    if file.size == 0:
        return b""  # a range of nothing cannot be asked for; the digest still has to match
    attempt, began = 0, anyio.current_time()
    while True:
        content = await anyio.to_thread.run_sync(_get, run, file, limiter=run.small_slots)
        if not isinstance(content, Failure):
            run.bytes_fetched += len(content)
            return content
        attempt += 1
        if isinstance(await run.judge(file.path, content, attempt, anyio.current_time() - began), Stop):
            return content


def _get(run: Run, file: RemoteFile) -> bytes | Failure:
    content, done = memoryview(bytearray(file.size)), 0
    try:
        with run.means.client.open(run.manifest, file, None, Block(0, file.size)) as body:
            while done < file.size:
                count = body.fill(content[done : done + run.means.pace.piece(file.size)])
                run.means.pace.spend(count)
                done += count
            body.finish()
    except TransferError as error:
        # All bytes came and more behind them: the digest will tell whether they are the file.
        if error.failure.reason is not Reason.LONG_BODY:
            return error.failure
    return bytes(content)
