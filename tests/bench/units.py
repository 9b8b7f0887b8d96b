"""Numbers as people read them."""

from __future__ import annotations

import re
from statistics import median

KB = 1000
KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
_SUFFIXES = {"": 1, "K": KiB, "M": MiB, "G": GiB}


def parse_size(text: str) -> int:
    """Return bytes: `2G`, `512M`, powers of 1024."""
    found = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"`{text}` is no size such as 512M or 2G")
    return int(found[1]) * _SUFFIXES[found[2].upper()]


def significant(value: float) -> str:
    """Return a number with three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    if value >= 0.1 or value == 0:
        return f"{value:.2f}"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def spread(values: list[float]) -> str:
    """Return `median (min-max)`; just the number where there is one only."""
    if len(values) == 1:
        return significant(values[0])
    return f"{significant(median(values))} ({significant(min(values))}-{significant(max(values))})"
