"""A cap on bytes per second that holds over all connections together."""

from __future__ import annotations

import threading
import time


class Pace:
    """A token bucket, thread-safe; `None` caps nothing.

    Args:
        bytes_per_s: the cap.
        clock: monotonic seconds.

    Attributes:
        swift: bytes come so fast that a second copy of each would hold them up; told by whoever measures.
    """

    def __init__(self, bytes_per_s: int | None) -> None:
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = time.monotonic()
        self._stopped = threading.Event()
        self.swift = False

    def piece(self, most: int) -> int:
        """Return how many bytes to read at once, so that a low cap still flows instead of jerking."""
        return most if self._rate is None else max(1, min(most, self._rate // 8))

    def spend(self, count: int) -> None:
        """Wait, in the calling thread, until `count` more bytes are within the cap."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            # A quiet second may be made up for, not more: a cap is a promise to the neighbours.
            self._free_at = max(self._free_at, now - 1.0) + count / self._rate
            wait_s = self._free_at - now
        if wait_s > 0:
            self._stopped.wait(wait_s)

    def stop(self) -> None:
        """Wake every waiter."""
        self._stopped.set()
