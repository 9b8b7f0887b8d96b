"""Sizes, durations and foreign text as people read them; the one place where units are chosen."""

from __future__ import annotations

# Decimal, as the Hub's pages show them: a figure here can be compared with the one in the browser.
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size(count: float) -> str:
    """Return bytes in decimal units: `512 B`, `4.1 MB`, `137 GB`."""
    value, unit = float(count), 0
    while round(value, 0 if value >= 100 else 1) >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1
    return f"{value:.{digits}f}".removesuffix(".0") + f" {_UNITS[unit]}"


def rate(bytes_per_s: float) -> str:
    """Return a speed: `95 MB/s`."""
    return f"{size(bytes_per_s)}/s"


def duration(seconds: float) -> str:
    """Return `0.4 s`, `12 s`, `1m30s`, `2h05m` or `3d04h`."""
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def count(number: int, noun: str) -> str:
    """Return `1 file`, `9 files`, `2 bad copies`."""
    if number != 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun}"


def printable(text: str) -> str:
    r"""Return `text` without control characters: a server's words must not move the cursor or colour the screen."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
