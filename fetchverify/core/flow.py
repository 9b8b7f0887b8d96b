"""How many connections to use, how much to ask of each, and which of them to give up; measuring is left to `engine`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

_TROUBLE_PAUSE_S = 1.0  # several connections report one and the same trouble
_HOLD_S = 5.0  # between looks whether more connections bring more
_PER_LINE_KEPT = 0.6  # of a line's rate before the doubling: less says that the line, not its number, is the limit
_TOTAL_GAINED = 1.05  # what a later addition has to bring to stay
# A request should last so long that the silence of one round trip before its first byte costs little of it.
_MOST_SILENCE = 0.03
# A connection is given up where it is this much slower than the others and would need this long to end.
_FAR_BELOW = 0.25
_PATIENCE_S = 2.0


def first_connections(round_trip_s: float, most: int) -> int:
    """Return with how many connections to begin.

    On a short line one may saturate a core with TLS and hashing, and more only share it; on a long one each needs
    many round trips to come to speed, and beginning with two would cost a second.
    """
    wanted = 1 if round_trip_s < 0.002 else 2 if round_trip_s < 0.005 else 4 if round_trip_s < 0.02 else 8
    return max(1, min(wanted, most))


def segment_blocks(round_trip_s: float, line_rate: float, block_size: int, free: int, lines: int) -> int:
    """Return how many neighbouring blocks one request should span, at least 1.

    Args:
        round_trip_s: from a request to its head.
        line_rate: bytes per second of one connection; 0 where nothing was measured yet.
        block_size: bytes.
        free: blocks that nobody asked for yet.
        lines: connections in use; towards the end each gets less, so that all end together.
    """
    enough = 2 if line_rate <= 0 else round(round_trip_s * line_rate / _MOST_SILENCE / block_size)
    return max(1, min(max(2, enough), 8, free // (2 * lines)))


class Flow:
    """The number of connections: doubled while each keeps its speed, halved on trouble; pure, told the time.

    Attributes:
        target: how many to use now.
    """

    def __init__(self, *, first: int, most: int, now: float) -> None:
        self.target = first
        self._most = most
        self._ramping = True
        self._settling = True
        self._previous = first
        self._flows = False
        self._before = 0.0  # bytes per second before the last addition
        self._best_per_line = 0.0
        self._changed_at = now
        self._trouble_at = now - _TROUBLE_PAUSE_S
        self._seen_at, self._seen = now, 0

    def tick(self, now: float, received: int, *, enough: bool = False) -> int:
        """Return the target after a look at the bytes received so far; call it every 0.1 to 0.5 s.

        Args:
            now: seconds.
            received: bytes.
            enough: what comes waits to be hashed: no connection more can speed that up.
        """
        passed, came = now - self._seen_at, received - self._seen
        if passed <= 0 or (came == 0 and not self._flows):
            return self.target
        self._flows = True
        self._seen_at, self._seen = now, received
        total = came / passed
        if enough:
            self._changed_at = now
        elif self._ramping:
            self._ramp(now, total)
        elif now - self._changed_at >= _HOLD_S:
            self._probe(now, total)
        return self.target

    def trouble(self, now: float) -> int:
        """Return the target after a 429, a 5xx or a timeout."""
        if now - self._trouble_at >= _TROUBLE_PAUSE_S:
            self._trouble_at = self._changed_at = now
            self._ramping = False
            self.target = self._previous = max(1, self.target // 2)
            self._before = 0.0
        return self.target

    def _ramp(self, now: float, total: float) -> None:
        if self._settling:  # connections were added within this interval: it says nothing yet
            self._settling = False
            return
        per_line = total / self.target
        if per_line < self._best_per_line * _PER_LINE_KEPT:
            self.target, self._ramping, self._changed_at = self._previous, False, now
        elif self.target >= self._most:
            self._ramping, self._changed_at, self._previous = False, now, self.target
        else:
            self._previous, self.target = self.target, min(self._most, self.target * 2)
            self._settling = True
        self._best_per_line = max(self._best_per_line, per_line)

    def _probe(self, now: float, total: float) -> None:
        """Keep an addition that brought something, take back one that did not, then try one more."""
        if self.target > self._previous and total < self._before * _TOTAL_GAINED:
            self.target = self._previous
        else:
            self._previous = self.target
            self.target = min(self._most, self.target + max(1, self.target // 4))
            self._before = total
        self._changed_at = now


def laggards(rates: Mapping[T, tuple[float, float]], ended: Sequence[float]) -> list[T]:
    """Return the connections that are far slower than is usual and would hold the end up.

    Args:
        rates: by connection: bytes per second, and the seconds that it needs for the rest at that rate.
        ended: bytes per second of requests that ended lately; the last one running has no other peers.
    """
    now = [rate for rate, _ in rates.values()]
    # Where all are slow now, the line became slow, and nothing is won by asking again.
    samples = now if len(now) >= 3 else [*now, *ended]
    if len(samples) < 3:
        return []
    limit = statistics.median(samples) * _FAR_BELOW
    return [one for one, (rate, rest_s) in rates.items() if rate < limit and rest_s > _PATIENCE_S]
