"""How many connections to use, how much to ask of each, and which of them to give up; measuring is left to `engine`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

_TROUBLE_PAUSE_S = 1.0  # several connections report one and the same trouble
_HOLD_S = 5.0  # between looks whether more connections bring more
_LEAST_WINDOW_S = 0.05
_TRIAL_S = 1.0  # for how long an addition is measured: requests that end together make a shorter look a gamble
_ROUND_TRIPS_TO_SPEED = 6  # of a new connection: its handshake, its request, and its slow start
_ROUND_TRIPS_TO_ANSWER = 1.5  # what was asked with the first that was refused is answered by then
_PER_LINE_KEPT = 0.6  # of a line's rate before the doubling: less says that the line, not its number, is the limit
_TOTAL_GAINED = 1.05  # what a later addition has to bring to stay
# A request should last so long that the silence before its first byte costs little of it, and no shorter than this.
_MOST_SILENCE = 0.03
_LEAST_REQUEST_S = 0.02
# A connection is given up where it is this much slower than the others and would need this long to end.
_FAR_BELOW = 0.25
_PATIENCE_S = 2.0
# For how long a number of connections is left alone that the server refused.
_REFUSED_S = 60.0
# In round trips: how early the next request is tried where a server limits their number, and what teaches how early.
_FIRST_REACH = 3.0
_MOST_REACH = 8.0
_REACH_GAINED = 0.5
_REACH_KEPT = 0.7
# Bytes per second from which on the page cache costs more than it brings: a core has better things to do, and what
# arrives so fast is read again as fast.
_SWIFT = 256e6
_SHORT_LINE_S = 0.005  # round trip; below it a request waits for its server no longer than for the threads here


def first_connections(round_trip_s: float, most: int) -> int:
    """Return with how many connections to begin.

    On a short line two may saturate a core with hashing, the one reading while the other writes, and more only share
    it; on a long one each needs many round trips to come to speed, and finding out how many are too many costs more
    than they do.
    """
    wanted = 2 if round_trip_s < _SHORT_LINE_S else 4 if round_trip_s < 0.02 else 16
    return max(1, min(wanted, most))


def segment_blocks(
    silence_s: float, line_rate: float, block_size: int, left: float, lines: float, *, under_way: int = 0
) -> int:
    """Return how many neighbouring blocks one request should span, at least 1.

    Args:
        silence_s: before a request's first byte; a round trip where it is sent after the last one's end.
        line_rate: bytes per second of one connection; 0 where nothing was measured yet.
        block_size: bytes.
        left: blocks of the file that did not come yet, those that were asked for among them.
        lines: connections that work on this file; towards its end each gets its share, so that all end together.
        under_way: requests for this file; the first ones differ in length, lest all connections ask anew at once.
    """
    measured = round(max(silence_s / _MOST_SILENCE, _LEAST_REQUEST_S) * line_rate / block_size)
    wanted = 1 + under_way % 4 if line_rate <= 0 else measured
    return max(1, min(wanted, 8, int(left / lines)))


def past_cache(rate: float, *, far: bool) -> bool:
    """Return whether what is hashed from memory is to be written past the page cache.

    Not over a long line: there most bytes land ahead of the hash, to be read again, and where both kinds of writes meet
    in one file, ext4 has each wait for the other, and all for a sync.

    Args:
        rate: bytes per second over all connections.
        far: a round trip is worth hiding.
    """
    return rate > _SWIFT and not far


def room_before_end(round_trip_s: float, most: int, reach: float) -> float:
    """Return how many seconds before its end a request makes room for the next one, 0 for not at all.

    Where a server limits requests: in its last round trip all that is left of one is on its way already, the server is
    done with it and takes another. Where none does, a fresh connection costs more than that round trip.

    Args:
        round_trip_s: of the line.
        most: connections that may be used.
        reach: round trips before the end at which the server is done with a request (`Flow.reach`).
    """
    return round_trip_s * reach if round_trip_s >= _SHORT_LINE_S and most > 1 else 0.0


class Flow:
    """The number of connections: doubled while each keeps its speed, halved on trouble; pure, told the time.

    After each change it lets the connections come to speed before it measures what they bring.

    Args:
        first: how many to begin with.
        most: never more.
        now: seconds.
        round_trip_s: of the line; a connection needs several to come to speed.

    Attributes:
        target: how many to use now.
        limited: the server refused more requests than it was answering, not long ago.
        reach: round trips before the end of a request at which the server takes the next one, as far as is known.
    """

    def __init__(self, *, first: int, most: int, now: float, round_trip_s: float) -> None:
        self.target = first
        self.limited = False
        self.reach = 1.0
        self._most = most
        self._settle_s = round_trip_s * _ROUND_TRIPS_TO_SPEED
        self._all_answer_s = round_trip_s * _ROUND_TRIPS_TO_ANSWER
        self._ramping = first < most
        self._previous = first  # below `target` while an addition has to prove itself
        self._before = 0.0  # bytes per second before that addition
        self._best_per_line = 0.0
        self._trouble_at = now - _TROUBLE_PAUSE_S
        self._ceiling = most  # below what the server refused
        self._refused_at = now - _REFUSED_S
        self._flows = False
        self._from = now
        self._from_bytes: int | None = None

    def tick(self, now: float, received: int, *, enough: bool = False) -> int:
        """Return the target after a look at the bytes received so far; call it every 0.1 to 0.5 s.

        Args:
            now: seconds.
            received: bytes.
            enough: what comes waits to be hashed: no connection more can speed that up.
        """
        if not self._flows:
            if not received:
                return self.target
            self._flows = True
            self._measure_after(now)
        if enough:
            self._measure_after(now)
        elif now >= self._from and self._from_bytes is None:
            self._from, self._from_bytes = now, received
        elif self._from_bytes is not None and now - self._from >= max(self._window_s, _LEAST_WINDOW_S):
            total = (received - self._from_bytes) / (now - self._from)
            self._ramp(total) if self._ramping else self._probe(total, now)
            self._measure_after(now)
        return self.target

    def trouble(self, now: float) -> int:
        """Return the target after a 429, a 5xx or a timeout: half, or what went well before one was added."""
        if now - self._trouble_at >= _TROUBLE_PAUSE_S:
            added = self.target > self._previous and not self._ramping
            self._lower(now, self._previous if added else self.target // 2, ceiling=self.target - 1)
        return self.target

    def refused(self, now: float, served: int) -> int:
        """Return the target after a 429 of a server that was answering `served` other requests at that moment.

        A server that limits their number answers as many as it bears, once all asked: that many are used.
        """
        since_s = now - self._refused_at
        if served and not self.limited:
            self.limited, self.reach = True, _FIRST_REACH
        if served >= max(1, self.target - 1):
            if since_s >= self._all_answer_s:  # else it is one of the same crowd
                self._refused_at, self.reach = now, max(1.0, self.reach * _REACH_KEPT)
        elif served and self._all_answer_s <= since_s < _TROUBLE_PAUSE_S:
            self._lower(now, served, ceiling=served)
        else:
            self.trouble(now)  # the first of many: the others' answers are on their way
        return self.target

    def served(self) -> None:
        """Note that a request was answered whole: where their number is limited, the next may be sent a bit earlier."""
        if self.limited:
            self.reach = min(_MOST_REACH, self.reach + _REACH_GAINED)

    def _lower(self, now: float, target: int, *, ceiling: int) -> None:
        self._trouble_at = self._refused_at = now
        self._ceiling = max(1, ceiling)
        self._ramping = False
        self.target = self._previous = max(1, target)
        self._measure_after(now)

    @property
    def _window_s(self) -> float:
        """For how long to measure: shortly while it ramps, longer where a few per cent matter."""
        if self._ramping:
            return self._settle_s
        return _TRIAL_S if self.target > self._previous else _HOLD_S

    def _measure_after(self, now: float) -> None:
        self._from, self._from_bytes = now + self._settle_s, None

    def _ramp(self, total: float) -> None:
        per_line = total / self.target
        if per_line < self._best_per_line * _PER_LINE_KEPT:
            self.target, self._ramping = self._previous, False
        elif self.target >= self._most:
            self._previous, self._ramping = self.target, False
        else:
            self._previous, self.target = self.target, min(self._most, self.target * 2)
        self._best_per_line = max(self._best_per_line, per_line)

    def _probe(self, total: float, now: float) -> None:
        """Keep an addition that brought something and try one more at once; take back one that did not."""
        if now - self._refused_at >= _REFUSED_S:
            most, self.limited, self.reach = self._most, False, 1.0
        else:
            most = min(self._most, self._ceiling)
        if self.target > self._previous and total < self._before * _TOTAL_GAINED:
            self.target = self._previous
        else:
            self._previous = self.target
            self.target = min(most, self.target + max(1, self.target // 4))
            self._before = total


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
