"""Where events become something to look at; what happened is decided elsewhere.

- `human`     sizes, durations and foreign text, as people read them
- `tally`     events added up: how far the whole run is, and how fast
- `terminal`  bars on a terminal, a plain line now and then on a pipe
- `jsonlines` one JSON object a line, for programs
- `closing`   the words at a run's end: summary, failures, a dry run's table
- `diagnosed` the words of `doctor`
- `probed`    the words of `probe`

A sink is called with each event, on the event loop's thread, and closed once.
"""

from __future__ import annotations

from typing import Protocol

from fetchverify.events import Event


class Sink(Protocol):
    """Takes the events of one run."""

    def __call__(self, event: Event) -> None:
        """Take one event; never raises because of what it writes to."""

    def close(self) -> None:
        """Leave the stream as it was found: no half-drawn bar."""


__all__ = ["Sink"]
