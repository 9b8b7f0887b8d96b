"""Makes any line count as one on which bytes are written past the page cache: loopback alone is that fast in tests."""

from __future__ import annotations

from fetchverify.engine.pace import Pace


def on() -> property:
    """Return what to put in the place of `Pace.swift`: true, whatever was measured."""
    return property(lambda pace: True, lambda pace, measured: None)


def force() -> None:
    """Do so for the rest of this process."""
    Pace.swift = on()  # type: ignore[assignment]
