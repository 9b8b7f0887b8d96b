"""One file of at most 1 MiB: fetched into memory by one request and hashed there; publishing is left to `transfer`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import anyio
import anyio.to_thread

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, Reason, Stop
from fetchverify.engine.run import Run
from fetchverify.engine.suppliers import Choice, Supplier
from fetchverify.net.transport import TransferError


async def fetch_small(run: Run, file: RemoteFile, choice: Choice) -> tuple[bytes | Failure, Supplier]:
    """Return the file's bytes, unproved, or why they could not be had; and who gave them, or was asked last."""
    if file.size == 0:
        return b"", run.suppliers.all[0]  # a range of nothing cannot be asked for; the digest still has to match
    attempts, began = Counter[Supplier](), anyio.current_time()
    while True:
        supplier = await choice.first()
        content = await anyio.to_thread.run_sync(_get, run, supplier, file, limiter=run.small_slots)
        if not isinstance(content, Failure):
            run.bytes_fetched += len(content)
            supplier.gave, supplier.absent = True, 0
            return content, supplier
        attempts[supplier] += 1
        if run.suppliers.several and content.host is None:
            content = replace(content, host=supplier.endpoint.host)
        elsewhere, quiet_s = choice.elsewhere(supplier), anyio.current_time() - began
        verdict = await run.judge(file.path, content, attempts[supplier], quiet_s, elsewhere=elsewhere)
        if isinstance(verdict, Stop):
            if not elsewhere:
                return (choice.told(content) if run.suppliers.several else content), supplier
            choice.give_up(supplier, content)
        elif elsewhere:
            choice.rest(supplier, content, getattr(verdict, "wait_s", 0.0))


def _get(run: Run, supplier: Supplier, file: RemoteFile) -> bytes | Failure:
    content, done, means = memoryview(bytearray(file.size)), 0, supplier.means
    try:
        with means.client.open(run.manifest, file, None, Block(0, file.size)) as body:
            while done < file.size:
                count = body.fill(content[done : done + means.pace.piece(file.size)])
                means.pace.spend(count)
                done += count
            body.finish()
    except TransferError as error:
        # All bytes came and more behind them: the digest will tell whether they are the file.
        if error.failure.reason is not Reason.LONG_BODY:
            return error.failure
    return bytes(content)
