"""Hashes what lies on disk, in threads; what a digest means is left to the caller."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from fetchverify.core.manifest import Digest
from fetchverify.engine.hashing import new_buffer, new_hash
from fetchverify.errors import ungrouped

if TYPE_CHECKING:
    from fetchverify.core.blocks import BlockMap
    from fetchverify.core.facts import Answer, Question
    from fetchverify.engine.answering import Work

_TELL_EVERY_S = 0.1


class Auditor:
    """Hashes files, one thread a core.

    `readinto` 1 MiB at a time: mmap dies of a truncation, O_DIRECT brought nothing (DESIGN, figures).
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._limiter = anyio.CapacityLimiter(self._threads)
        self._stopped = threading.Event()

    async def matches(self, path: Path, digest: Digest, size: int) -> bool:
        """Return whether the file's whole content has this digest; False as well where it cannot be read."""
        return await self.measure(path, digest, size) == digest.hex

    async def measure(self, path: Path, digest: Digest, size: int) -> str | None:
        """Return the hex digest of the file's bytes, or None where it is absent, unreadable or of another size."""
        measured = await anyio.to_thread.run_sync(self._measure, path, digest, size, limiter=self._limiter)
        # A measurement cut short by cancelling must not be taken for a mismatch.
        await anyio.lowlevel.checkpoint()
        return measured

    async def answer(
        self,
        questions: Sequence[Question],
        *,
        block_map: Callable[[Question], BlockMap | None],
        quick: bool = False,
        blocks_first: bool = False,
        done: Callable[[Question, Answer], None] = lambda question, answer: None,
        tell: Callable[[int, int], None] = lambda files, size: None,
    ) -> dict[str, Answer]:
        """Return what was found out about each file's bytes, by the questions' keys.

        Args:
            questions: in any order; the largest are taken first, so that all cores are busy until the end.
            block_map: returns the stored map of a proved file; called in a thread.
            quick: compare blocks only, and leave alone what has no block map.
            blocks_first: compare blocks before the whole is hashed, where there is a block map.
            done: called in a thread with each answer.
            tell: called on the event loop now and then, with the files and bytes that are done.
        """
        from fetchverify.engine.answering import Work  # not for `get`, which asks nothing

        ordered = sorted(questions, key=lambda question: -question.state.st_size)
        work = Work(
            ordered,
            block_map=block_map,
            quick=quick,
            blocks_first=blocks_first,
            done=done,
            stopped=self._stopped,
        )
        with ungrouped():
            async with anyio.create_task_group() as group:
                group.start_soon(self._tell, work, len(ordered), tell)
                async with anyio.create_task_group() as threads:
                    for _ in range(min(self._threads, len(ordered))):
                        threads.start_soon(self._run, work)
                group.cancel_scope.cancel()
        tell(work.files, work.size)
        return work.answers

    async def _run(self, work: Work) -> None:
        await anyio.to_thread.run_sync(work.run, limiter=self._limiter)

    async def _tell(self, work: Work, questions: int, tell: Callable[[int, int], None]) -> None:
        try:
            while True:
                await anyio.sleep(_TELL_EVERY_S)
                tell(work.files, work.size)
        finally:
            if work.files < questions:  # cancelled, or a thread failed: the threads hear of it here
                self.stop()

    def stop(self) -> None:
        """Make every measurement under way end soon."""
        self._stopped.set()

    def _measure(self, path: Path, digest: Digest, size: int) -> str | None:
        state, done = new_hash(digest, size), 0
        buffer = new_buffer()
        try:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    state.update(buffer[:count])
                    done += count
                    if self._stopped.is_set():
                        return None
        except OSError:
            return None
        return state.hexdigest() if done == size else None
