"""`SHA256SUMS` as coreutils writes and reads it; which file a line speaks of is left to the caller."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Hash, a space, a space or `*` (binary), the name; a backslash before the hash says that the name is escaped.
_GNU = re.compile(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)", re.DOTALL)
_BSD = re.compile(rb"(\\?)SHA256 ?\((.+)\) ?= ([0-9a-fA-F]{64})", re.DOTALL)
_ESCAPES = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}
_ESCAPED = re.compile(rb"\\(.?)", re.DOTALL)
_TO_ESCAPE = re.compile(rb"[\\\n\r]")


def format_sums(sums: Iterable[tuple[str, str]]) -> bytes:
    """Return the lines for `(path, sha256)` pairs, as `sha256sum --binary` prints them.

    Source: coreutils 9 `src/digest.c::output_file`, `print_filename`.
    """
    return b"".join(_line(path.encode("utf-8", "surrogateescape"), sha256) for path, sha256 in sums)


def _line(name: bytes, sha256: str) -> bytes:
    escaped = _TO_ESCAPE.sub(lambda found: {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}[found[0]], name)
    return (b"\\" if escaped != name else b"") + sha256.encode() + b" *" + escaped + b"\n"


def parse_sums(raw: bytes) -> tuple[dict[str, str], int]:
    """Return path to sha256, and how many lines are neither that nor empty nor a comment.

    Paths are as they stand there but for a leading `./`; nothing says that they stay below any folder.
    A path that stands there twice with different sums is taken for unreadable.

    Source: coreutils 9 `src/digest.c::split_3`, `filename_unescape`.
    """
    found: dict[str, str] = {}
    twice: set[str] = set()
    bad = 0
    for line in raw.split(b"\n"):
        if not line.strip() or line.startswith(b"#"):
            continue
        parsed = _parse_line(line.removesuffix(b"\r"))
        if parsed is None:
            bad += 1
            continue
        path, sha256 = parsed
        if found.setdefault(path, sha256) != sha256:
            bad += 1
            twice.add(path)
    return {path: sha256 for path, sha256 in found.items() if path not in twice}, bad


def _parse_line(line: bytes) -> tuple[str, str] | None:
    line = line.lstrip(b" \t")
    if (gnu := _GNU.fullmatch(line)) is not None:
        escaped, sha256, name = gnu.groups()
    elif (bsd := _BSD.fullmatch(line)) is not None:
        escaped, name, sha256 = bsd.groups()
    else:
        return None
    if escaped:
        if any(found not in _ESCAPES for found in _ESCAPED.findall(name)):
            return None
        name = _ESCAPED.sub(lambda found: _ESCAPES[found[1]], name)
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return (name.decode("utf-8", "surrogateescape"), sha256.decode().lower()) if name else None
