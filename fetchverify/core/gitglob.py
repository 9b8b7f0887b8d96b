"""Path patterns of git-lfs's configuration (`lfs.fetchinclude`), in the manner of gitignore; pure.

Source: git-lfs 3.3 `git-lfs-fetch(1)`, "INCLUDE AND EXCLUDE"; `gitignore(5)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def split_patterns(value: str | None) -> tuple[str, ...]:
    """Return a comma-separated list of patterns."""
    return tuple(part for part in (one.strip() for one in (value or "").split(",")) if part)


def wanted(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Return whether a path matches one of `include` (all do where that is empty), and none of `exclude`."""
    return (not include or _matches(path, include)) and not _matches(path, exclude)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(_regex(pattern), path, re.DOTALL) for pattern in patterns)


def _regex(pattern: str) -> str:
    """Return a regular expression: a pattern matches a name or a folder anywhere, with a slash inside from the root."""
    body = pattern.strip("/")
    anchored = pattern.startswith("/") or "/" in body
    out = "" if anchored else "(?:.*/)?"
    at = 0
    while at < len(body):
        if body.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif body.startswith("**", at):
            out, at = out + ".*", at + 2
        elif body[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif body[at] == "?":
            out, at = out + "[^/]", at + 1
        elif body[at] == "[" and (end := body.find("]", at + 2)) > 0:
            inner = body[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = f"^{inner[1:]}" if inner[0] in "!^" else inner
            out, at = out + f"(?!/)[{inner}]", end + 1
        else:
            at += body[at] == "\\" and at + 1 < len(body)
            out, at = out + re.escape(body[at]), at + 1
    return f"{out}(?:/.*)?"
