"""Amounts as people type them: rates, sizes, durations, shares."""

from __future__ import annotations

import re

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt])(i?b?)|b)?(/s)?", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([smhdw])", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%")


def parse_rate(text: str) -> int:
    """Return bytes per second; 0 means no limit.

    `50M` is 50 * 1024 * 1024 as for curl, wget, aria2 and rclone, and so is `50Mi` and `50MiB`; `50MB` is 50,000,000.

    Raises:
        ValueError: this is no rate.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError("write bytes per second such as 500K, 50M or 1.5G")
    value = _bytes(found, 1000 if (found[3] or "").lower() == "b" else 1024)
    # A limit that rounds to nothing would mean none.
    return max(1, round(value)) if value else 0


def parse_size(text: str) -> int:
    """Return bytes, as disks are sold: `500GB` and `500G` are 500,000,000,000; `GiB` is binary.

    Raises:
        ValueError: this is no size.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or found[4]:
        raise ValueError("write bytes such as 500GB, 2T or 750GiB")
    return round(_bytes(found, 1024 if (found[3] or "").lower().startswith("i") else 1000))


def parse_duration(text: str) -> float:
    """Return seconds.

    Raises:
        ValueError: this is no duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("write 90s, 12h, 30d or 4w")
    return float(found[1]) * _SECONDS[found[2].lower()]


def parse_share(text: str) -> float:
    """Return a part of the whole, above 0, at most 1.

    Raises:
        ValueError: this is no share.
    """
    found = _SHARE.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) <= 100:
        raise ValueError("write a share such as 5% or 100%")
    return float(found[1]) / 100


def _bytes(found: re.Match[str], base: int) -> float:
    number, prefix = float(found[1]), found[2]
    return number * (base ** ("kmgt".index(prefix.lower()) + 1) if prefix else 1)
