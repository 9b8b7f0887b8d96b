"""HTTP's rules for part of a file: Range, If-Range, If-None-Match; which bytes an answer holds.

Only a strong validator is ever compared: the digest of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# Nineteen digits hold any size; int() of a longer text would be a way to burn our time.
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})[ \t]*-[ \t]*([0-9]{0,19})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What to answer: the status, and which bytes `[start, stop)`, none but with 200 and 206."""

    status: Literal[200, 206, 304, 416]
    start: int = 0
    stop: int = 0


def asked_part(size: int, etag: str, *, wanted: str | None, if_range: str | None, if_none_match: str | None) -> Part:
    """Return what a request for a file is answered with.

    Several ranges, other units and what is malformed are ignored, as RFC 9110 §14.2 allows: the answer is the whole.

    Args:
        size: bytes of the file.
        etag: its strong ETag, in its quotes.
        wanted: `Range`.
        if_range: `If-Range`; a date, or another tag, makes the range void.
        if_none_match: `If-None-Match`.

    Source: RFC 9110 §13.1.2, §13.1.5, §13.2.2, §14.2, §15.3.7, §15.5.17.
    """
    if if_none_match is not None and _matches(if_none_match, etag):
        return Part(status=304)
    whole = Part(status=200, stop=size)
    if wanted is None or (if_range is not None and if_range.strip() != etag):
        return whole
    found = _RANGE.fullmatch(wanted.strip())
    if found is None or not (found[1] or found[2]):
        return whole
    if not found[1]:
        length = min(int(found[2]), size)
        return Part(status=206, start=size - length, stop=size) if length else Part(status=416)
    start = int(found[1])
    stop = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return whole
    return Part(status=206, start=start, stop=stop) if start < size else Part(status=416)


def _matches(condition: str, etag: str) -> bool:
    """Return whether `If-None-Match` names the tag; weakly, as it is to be compared."""
    return any(tag in ("*", etag) for tag in (part.strip().removeprefix("W/") for part in condition.split(",")))
