"""One large file from its first missing block to a proved partial; publishing is left to `transfer`."""

from __future__ import annotations

import anyio
import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, OneStream, ReResolve, Stop
from fetchverify.core.tickets import Tickets
from fetchverify.engine.fetch import Download, Pumped, pump
from fetchverify.engine.hashing import InOrderHash
from fetchverify.engine.run import Run
from fetchverify.net.transport import Source, TransferError
from fetchverify.store.partial import Partial

_SYNC_EVERY_S = 1.0


class LargeFile:
    """Fetches the missing blocks of one partial and yields its digest."""

    def __init__(self, run: Run, file: RemoteFile, partial: Partial) -> None:
        self._run = run
        self._partial = partial
        self._tickets = Tickets(partial.landed.missing())
        self._source: Source | None = None
        self._locating = anyio.Lock()
        self._wake = anyio.Event()
        self._attempt = 0
        self._progress_at = anyio.current_time()
        self._whole = False
        self._in_flight = 0
        self._finished = False
        self.failure: Failure | None = None
        self.download = Download(
            manifest=run.manifest,
            file=file,
            partial=partial,
            received=partial.landed.landed,
            hasher=InOrderHash(
                file.digest,
                partial.tiling,
                read_into=partial.read_into,
                block_hashes=partial.landed.hashes,
                pool=run.pool,
                rotted=self._rotted,
            ),
        )

    async def run(self, lines: int) -> str | None:
        """Return the digest in hex of the complete partial, or None where `failure` says why there is none.

        Raises:
            DiskError: the partial could not be written or read.
        """
        self._run.active.add(self.download.hasher)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._abort_on_trouble)
                group.start_soon(self._sync_now_and_then)
                for _ in range(lines):
                    group.start_soon(self._follow_tickets)
                digest = await anyio.to_thread.run_sync(self.download.hasher.run, limiter=self._run.hashers)
                # The last block may be hashed before its record is written: let the lines come to their end.
                while self.failure is None and not self._tickets.done:
                    await self._wake.wait()
                self._finished = True
                group.cancel_scope.cancel()
            return digest if self.failure is None else None
        finally:
            self._run.active.discard(self.download.hasher)

    async def _follow_tickets(self) -> None:
        while self.failure is None:
            if indexes := self._take():
                self._in_flight += 1
                await self._fetch(indexes)
                self._in_flight -= 1
                self._notify()
            else:
                await self._wake.wait()

    def _take(self) -> tuple[int, ...]:
        if not self._whole:
            return self._tickets.take(begun=self.download.works)
        return () if self._in_flight else self._tickets.take(self._partial.tiling.count)

    async def _fetch(self, indexes: tuple[int, ...]) -> None:
        """Make one request for these blocks, and judge how it ended."""
        whole, source = self._whole, self._source
        try:
            if source is None:
                source = await self._locate()
            pumped = await anyio.to_thread.run_sync(
                lambda: pump(
                    self._run.client, self._run.pool, self._run.pace, self.download, source, indexes, whole=whole
                ),
                limiter=self._run.slots,
            )
        except TransferError as error:
            pumped = Pumped(landed=(), progressed=False, failure=error.failure)
        for index in pumped.landed:
            self._tickets.landed(index)
        left = [index for index in indexes if index not in pumped.landed]
        if pumped.progressed:
            self._attempt, self._progress_at = 0, anyio.current_time()
        if pumped.failure is not None and left:
            await self._judge(pumped.failure, source)
        for index in left:
            self._tickets.give_back(index)

    async def _judge(self, failure: Failure, source: Source | None) -> None:
        self._attempt += 1
        quiet_s = anyio.current_time() - self._progress_at
        match await self._run.judge(self.download.file.path, failure, self._attempt, quiet_s):
            case ReResolve():
                if self._source is source:
                    self._source = None
            case OneStream():
                self._whole = True
            case Stop():
                self.failure = failure
                self.download.hasher.stop()

    async def _locate(self) -> Source:
        async with self._locating:
            if self._source is None:
                self._source = await anyio.to_thread.run_sync(
                    self._run.client.locate,
                    self.download.manifest,
                    self.download.file,
                    limiter=self._run.slots,
                )
            return self._source

    def _rotted(self, index: int) -> None:
        """Have a block fetched again whose bytes on disk are not what its record says; called by the hasher."""
        self._partial.drop([index])
        anyio.from_thread.run_sync(self._give_back, index)

    def _give_back(self, index: int) -> None:
        self.download.received -= len(self._partial.tiling.block(index))
        self._tickets.give_back(index)
        self._run.emit(
            events.Note(level="warning", message=f"block {index} of `{self.download.file.path}` rotted on disk")
        )
        self._notify()

    async def _sync_now_and_then(self) -> None:
        while True:
            await anyio.sleep(_SYNC_EVERY_S)
            if self._partial.unsynced_bytes:
                await anyio.to_thread.run_sync(self._partial.sync)

    async def _abort_on_trouble(self) -> None:
        """Wake the threads below when this group ends before its time: nothing else reaches into them."""
        try:
            await anyio.sleep_forever()
        finally:
            if not self._finished:
                self._run.abort()

    def _notify(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()
