"""From proved bytes to what readers see, and from bad bytes to quarantine; always under the hub's own lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from fetchverify import events
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.plan import Copy, Fetch, Link
from fetchverify.engine.run import Run
from fetchverify.store.blockmap import keep_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.layout import Layout
from fetchverify.store.partial import Partial
from fetchverify.store.quarantine import BadCopy, Quarantine

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """A small file between its proof and its publishing."""

    fetch: Fetch
    content: bytes
    published: bool = False


class Publisher:
    """Publishes proved files of one run and sets bad ones aside; methods without `async` block and run in threads."""

    def __init__(self, run: Run, layout: Layout, disk: Disk, host: str) -> None:
        self._run = run
        self._layout = layout
        self._disk = disk
        self._host = host
        self._quarantine = Quarantine(disk, layout.area)
        # fsync is what a publishing thread waits for: a few side by side share the disk's journal commits.
        self._threads = anyio.CapacityLimiter(8)
        self._gathered: list[_Waiting] = []
        self._batches = anyio.Lock()

    @property
    def quarantined(self) -> int:
        """Bad copies that lie in quarantine."""
        return self._quarantine.count()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, done in a thread."""
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    async def prove(self, file: RemoteFile, copy: Copy) -> bool:
        """Return whether a copy's bytes are the file; what is proved is noted and not hashed again."""
        path = Path(copy.where)
        before = await self.in_thread(path.stat)
        if copy.size == file.size and await self._run.auditor.matches(path, file.digest, file.size):
            await self.in_thread(lambda: self._layout.proofs.add(file.digest, path, hashed=before))
            return True
        message = f"`{copy.where}` is not what {self._run.promiser} promises for `{file.path}`"
        self._run.emit(events.Note(level="warning", message=message))
        return False

    async def link(self, action: Link, copy: Copy) -> str:
        """Publish a file from a proved copy; return how: `linked`, `reflink` or `copy`."""

        def work() -> str:
            self._set_aside(action.file, action.replaces, "another file stood in its place")
            return self._layout.publish_copy(action.file, copy)

        return await self._locked(action.file, work)

    async def small(self, fetch: Fetch, content: bytes) -> None:
        """Publish proved bytes under every path of the fetch; files that end together share their syncs.

        Returns when they are published. While one batch is on its way to the disk, the next one gathers.
        """
        waiting = _Waiting(fetch=fetch, content=content)
        self._gathered.append(waiting)
        async with self._batches:
            if waiting.published:
                return
            batch, self._gathered = self._gathered, []
            await self.in_thread(lambda: self._publish_batch(batch))
            for one in batch:
                one.published = True

    def _publish_batch(self, batch: list[_Waiting]) -> None:
        with ExitStack() as locks:
            # In one order everywhere: two runs that each wait for the other's next lock would wait for ever.
            for _, file in sorted({one.fetch.digest.key: one.fetch.files[0] for one in batch}.items()):
                locks.enter_context(self._lock(file))
            for one in batch:
                self._set_aside_all(one.fetch)
            self._layout.publish_many([(file, one.content) for one in batch for file in one.fetch.files])

    async def large(self, fetch: Fetch, partial: Partial, useless: Sequence[Path] = ()) -> None:
        """Publish a proved partial under every path of the fetch, then remove what is `useless` beside it."""

        def work() -> None:
            data = partial.seal()
            self._set_aside_all(fetch)
            self._layout.publish_data(fetch.files, data)
            # Evidence from now on: the whole digest matched. It finds which blocks rotted, should they ever.
            keep_block_map(self._disk, self._layout.area, partial.digest, partial.landed)
            for path in useless:
                self._disk.unlink(path, missing_ok=True)
            partial.discard()

        await self._locked(fetch.files[0], work)

    async def quarantine_bytes(self, file: RemoteFile, content: bytes, came: str, host: str | None = None) -> None:
        """Keep bytes that came and are not the file; `host` where another than the first endpoint sent them."""
        note = self._note(file, came, "the digest differs", host)
        await self.in_thread(lambda: self._quarantine.take_bytes(content, note))

    async def quarantine_blocks(self, path: Path, file: RemoteFile, blocks: tuple[int, ...], host: str | None) -> None:
        """Keep the bytes of blocks that one supplier sent otherwise than another, now that the file is proved."""
        reason = "these blocks, one after the other, are not those of the file"
        note = replace(self._note(file, None, reason, host), blocks=blocks)
        await self.in_thread(lambda: self._quarantine.take_path(path, note))

    async def quarantine_partial(self, partial: Partial, file: RemoteFile, came: str, host: str | None = None) -> None:
        """Keep a complete partial that is not the file."""
        note = self._note(file, came, "the digest differs", host)

        def work() -> None:
            self._quarantine.take_path(partial.seal(), note)
            partial.discard()

        await self.in_thread(work)

    def _set_aside_all(self, fetch: Fetch) -> None:
        for file, replaced in zip(fetch.files, fetch.replaces, strict=False):
            self._set_aside(file, replaced, "its bytes are not what the Hub promises")

    def _set_aside(self, file: RemoteFile, replaced: Copy | None, reason: str) -> None:
        """Unpublish what stands in a file's place, in the reverse order of publishing, and keep it in quarantine."""
        if replaced is None:
            return
        bad = self._layout.unpublish(file)
        if bad is not None:
            self._quarantine.take_path(bad, self._note(file, None, reason))

    def _note(self, file: RemoteFile, came: str | None, reason: str, host: str | None = None) -> BadCopy:
        manifest = self._run.manifest
        return BadCopy(
            promised=file.digest,
            path=file.path,
            repo_id=manifest.ref.repo_id,
            commit=manifest.commit,
            reason=reason,
            when=time.time(),
            came=None if came is None else f"{file.digest.algo}-{came}",
            host=host or self._host,
        )

    async def _locked(self, file: RemoteFile, work: Callable[[], T]) -> T:
        """Do `work` in a thread, under the lock that the hub's own client takes for this file."""

        def locked() -> T:
            with self._lock(file):
                return work()

        return await self.in_thread(locked)

    def _lock(self, file: RemoteFile) -> AbstractContextManager[None]:
        def told(holder: str, waited_s: float) -> None:
            anyio.from_thread.check_cancelled()
            event = events.Waiting(what=holder, wait_s=None, waited_s=round(waited_s, 1))
            anyio.from_thread.run_sync(self._run.emit, event)

        return self._layout.lock(file, told, self._run.options.lock_timeout_s)
