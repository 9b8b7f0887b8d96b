"""Hashes what lies on disk, in threads; what a digest means is left to the caller."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from fetchverify.core.manifest import Digest
from fetchverify.engine.hashing import BUFFER_SIZE, new_hash


class Auditor:
    """Hashes files, one thread a core.

    `readinto` 1 MiB at a time: mmap dies of a truncation, O_DIRECT and fadvise brought nothing (DESIGN, figures).
    """

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(os.cpu_count() or 1)
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

    def stop(self) -> None:
        """Make every measurement under way end soon."""
        self._stopped.set()

    def _measure(self, path: Path, digest: Digest, size: int) -> str | None:
        state, done = new_hash(digest, size), 0
        buffer = memoryview(bytearray(BUFFER_SIZE))
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
