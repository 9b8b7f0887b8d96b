"""The digest of one file while it arrives: bytes are consumed in file order, from memory where they still lie there.

One thread a file in flight. What is no longer in memory is read again from the partial (the page cache, as a
rule), so one slow connection at the frontier stalls nobody and memory stays bounded.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
import time
from collections.abc import Callable

import xxhash

from fetchverify.core.blocks import MiB, Tiling
from fetchverify.core.manifest import Digest

BUFFER_SIZE = MiB
# Not shared with a child process, as memory usually is not; Windows knows no such thing.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
# Read again at once: after each piece the hash has to wait for the interpreter's lock, among 16 readers that want it.
_SCRATCH_SIZE = 4 * MiB
# Bytes that are further ahead of the hash than this do not wait for it in memory.
_NEAR = 64 * MiB
# A waiting thread looks this often whether the run was cancelled; the backup of being woken.
_WAKE_S = 1.0
# A hash is outrun where bytes come at this share of its own speed. Whether it is busy at a moment says less: on a long
# line it rests behind one slow connection, then runs through all that the others brought.
_OUTRUN = 0.8
# How far ahead of a busy hash that is outrun a reader goes on reading, how often it looks whether it may go on, and
# how many looks later it reads one piece more in any case.
_AHEAD = 32 * MiB
_LOOK_S = 0.002
_MOST_LOOKS = 10


def new_hash(digest: Digest, size: int) -> hashlib._Hash:
    """Return a hash object that yields `digest.hex` when fed the file's `size` bytes.

    Source: git hashes `blob`, the length and a NUL before the content (`git hash-object`).
    """
    if digest.algo == "sha256":
        return hashlib.sha256()
    state = hashlib.sha1(usedforsecurity=False)
    state.update(b"blob %d\0" % size)
    return state


def new_buffer(size: int = BUFFER_SIZE) -> memoryview:
    """Return a buffer that begins with a page.

    Where one begins 16 bytes into a page, as those of `bytearray` do, some processors copy from the page cache at a
    fifth of their speed: each byte goes to nearly the same place in its page as it came from.
    """
    return memoryview(mmap.mmap(-1, size, **_PRIVATE))


class BufferPool:
    """At most `most` buffers of 1 MiB that begin on a page, shared by all connections of a run; thread-safe."""

    def __init__(self, most: int) -> None:
        self._free: list[memoryview] = []
        self._unmade = most
        self._lock = threading.Lock()

    def take(self) -> memoryview | None:
        """Return a buffer, or None where all are in use."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if not self._unmade:
                return None
            self._unmade -= 1
        return new_buffer()

    def give(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        with self._lock:
            self._free.append(buffer)


class InOrderHash:
    """Consumes one file in order: `offer` and `landed` from any thread, `run` in a thread of its own.

    Args:
        read_into: reads the partial at an offset into a buffer, returns the count.
        block_hashes: xxh3_128 by block index of what earlier runs left; checked as the frontier passes.
        rotted: called from the hashing thread with the index of a block whose bytes do not match its record;
            that block has to land again.

    Attributes:
        frontier: bytes consumed so far.
        busy: it has bytes to hash.
        outrun: bytes come faster than it hashes, as far as is known: readers do well to wait while it is busy.
    """

    def __init__(
        self,
        digest: Digest,
        tiling: Tiling,
        *,
        read_into: Callable[[memoryview, int], int],
        block_hashes: dict[int, bytes],
        pool: BufferPool,
        rotted: Callable[[int], None],
    ) -> None:
        self._tiling = tiling
        self._read_into = read_into
        self._earlier = dict(block_hashes)
        self._pool = pool
        self._rotted = rotted
        self._hash = new_hash(digest, tiling.size)
        self._ready: dict[int, tuple[memoryview | None, int]] = {}
        self._wake = threading.Condition()
        self._stopped = False
        self.frontier = 0
        self.busy = False
        self.outrun = False
        self._arrived = self._arrived_before = 0
        self._began_at = self._looked_at = time.monotonic()
        self._rested_s = 0.0
        self._resting_since: float | None = None

    @property
    def _ahead_of_work(self) -> bool:
        return self.outrun and self.busy

    def look(self) -> bool:
        """Return whether bytes come faster than they are hashed, judged since the last look; look every 0.1 s or so."""
        now, came = time.monotonic(), self._arrived - self._arrived_before
        resting_s = 0.0 if self._resting_since is None else now - self._resting_since
        worked_s = now - self._began_at - self._rested_s - resting_s
        if came and self.frontier and worked_s > 0 and now > self._looked_at:
            self.outrun = came / (now - self._looked_at) > self.frontier / worked_s * _OUTRUN
        self._looked_at, self._arrived_before = now, self._arrived
        return self.outrun

    def take(self, offset: int) -> memoryview | None:
        """Return a buffer for the bytes at `offset`; None where they are far ahead, or memory short and the hash not.

        Waits while an outrun hash has enough to do: reading on would only make it read these bytes from disk again.
        A reader far ahead waits for a moment alone: on a long line its silence would cost more than the re-reading.
        """
        looks = 0
        while self._ahead_of_work and offset - self.frontier > _AHEAD and looks < _MOST_LOOKS:
            looks += 1
            time.sleep(_LOOK_S)
        if offset - self.frontier > _NEAR:
            return None
        while (buffer := self._pool.take()) is None and self._ahead_of_work and not self._stopped:
            time.sleep(_LOOK_S)
        return buffer

    def offer(self, offset: int, buffer: memoryview, length: int) -> None:
        """Hand over bytes that are on disk already; the buffer is ours from now on."""
        self._note(offset, buffer, length)

    def wrote(self, offset: int, length: int) -> None:
        """Say that these bytes are on disk and nowhere in memory."""
        self._note(offset, None, length)

    def _note(self, offset: int, buffer: memoryview | None, length: int) -> None:
        with self._wake:
            if self._stopped:
                if buffer is not None:
                    self._pool.give(buffer)
                return
            self._ready[offset] = (buffer, length)
            self._arrived += length
            if offset == self.frontier:
                self._wake.notify()

    def forget(self, start: int, stop: int) -> None:
        """Drop what was offered in `[start, stop)` and not consumed yet: it will come again."""
        with self._wake:
            for offset in [o for o in self._ready if start <= o < stop]:
                buffer, _ = self._ready.pop(offset)
                if buffer is not None:
                    self._pool.give(buffer)

    def stop(self) -> None:
        """Make `run` return soon, without a digest."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def run(self) -> str | None:
        """Consume until the last byte; return the digest in hex, or None where stopped.

        Raises:
            DiskError: the partial could not be read.
        """
        scratch = new_buffer(_SCRATCH_SIZE)
        self.busy = True
        try:
            return self._consume(scratch)
        finally:
            # Also where it could not read: no reader waits for a hash that is gone, nor for its buffers.
            self.busy = False
            self.stop()
            self.forget(0, self._tiling.size)

    def _consume(self, scratch: memoryview) -> str | None:
        while self.frontier < self._tiling.size:
            index, into_block = divmod(self.frontier, self._tiling.block_size)
            if into_block == 0 and index in self._earlier:
                self._consume_earlier(index, scratch)
                continue
            with self._wake:
                if self.frontier not in self._ready:
                    self._rest()
                if self._stopped:
                    break
                buffer, length = self._ready.pop(self.frontier)
                while buffer is None and length < len(scratch):
                    following = self._ready.get(self.frontier + length)
                    if following is None or following[0] is not None or length + following[1] > len(scratch):
                        break
                    length += self._ready.pop(self.frontier + length)[1]
            if buffer is None:
                self._read_exactly(scratch[:length], self.frontier)
                self._hash.update(scratch[:length])
            else:
                self._hash.update(buffer[:length])
                self._pool.give(buffer)
            self.frontier += length
        return None if self._stopped else self._hash.hexdigest()

    def _rest(self) -> None:
        """Wait for the bytes at the frontier; called with the lock held."""
        self.busy, self._resting_since = False, time.monotonic()
        while self.frontier not in self._ready and not self._stopped:
            self._wake.wait(_WAKE_S)
        self._rested_s += time.monotonic() - self._resting_since
        self.busy, self._resting_since = True, None

    def _consume_earlier(self, index: int, scratch: memoryview) -> None:
        """Feed one block of an earlier run; roll back where its bytes are no longer those of its record."""
        block = self._tiling.block(index)
        before, check, offset = self._hash.copy(), xxhash.xxh3_128(), block.start
        while offset < block.stop and not self._stopped:
            piece = scratch[: min(BUFFER_SIZE, block.stop - offset)]
            self._read_exactly(piece, offset)
            self._hash.update(piece)
            check.update(piece)
            offset += len(piece)
        if offset < block.stop:
            self.frontier = self._tiling.size  # stopped: nothing more is wanted
            return
        if check.digest() == self._earlier.pop(index):
            self.frontier = block.stop
        else:
            self._hash = before
            self._rotted(index)

    def _read_exactly(self, into: memoryview, offset: int) -> None:
        done = 0
        while done < len(into):
            count = self._read_into(into[done:], offset + done)
            if count == 0:
                # Someone shortened the partial; zeros cannot match a digest, so the file is fetched again.
                into[done:] = bytes(len(into) - done)
                return
            done += count
