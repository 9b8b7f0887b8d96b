"""Request quotas over a fixed window, and the headers that announce them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """So many requests in so many seconds."""

    limit: int
    window_s: float = 300.0


# The Hub announces its quotas on every response; a mock without quotas of its own never reaches this one.
_ANNOUNCED = Quota(limit=1_000_000)


class Quotas:
    """What is left of each quota; safe between threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}

    def take(self, name: str, quota: Quota) -> bool:
        """Count one request; False if none was left."""
        with self._lock:
            start, used = self._window(name, quota)
            self._windows[name] = (start, min(used + 1, quota.limit))
            return used < quota.limit

    def headers(self, name: str, quota: Quota | None) -> list[tuple[str, str]]:
        """Return the RateLimit fields of a response."""
        shown = quota or _ANNOUNCED
        with self._lock:
            start, used = self._window(name, shown)
        left, reset = shown.limit - used, max(round(start + shown.window_s - self._clock()), 0)
        policy = f'"fixed window";"{name}";q={shown.limit};w={round(shown.window_s)}'
        return [("RateLimit", f'"{name}";r={left};t={reset}'), ("RateLimit-Policy", policy)]

    def _window(self, name: str, quota: Quota) -> tuple[float, int]:
        now = self._clock()
        start, used = self._windows.get(name, (now, 0))
        return (start, used) if now < start + quota.window_s else (now, 0)
