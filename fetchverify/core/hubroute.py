"""The URLs of a Hub taken apart, as strictly as a stranger's deserve; whether what they name exists is left to others.

Nothing here becomes a path on disk: names of repos are checked to be names, and files are looked up in listings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from fetchverify.core.manifest import RepoKind

Verb = Literal["info", "tree", "paths-info", "refs", "list", "resolve", "nothing"]

_KINDS: dict[str, RepoKind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
_API_VERBS: dict[str, Verb] = {"revision": "info", "tree": "tree", "paths-info": "paths-info", "refs": "refs"}
# Source: huggingface_hub 2.4.0 `_validators.py::REPO_ID_REGEX`, whose words must begin and end with `\w`.
_NAME = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# The path of PATH_MAX, each byte quoted, and room for the rest.
_MOST_URL_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL names, unquoted.

    Attributes:
        repo_id: `org/name`, or `name` of the oldest repos; checked.
        revision: as the client typed it; anything but empty.
        path: of a file or folder, `/`-separated; empty is the root.
    """

    verb: Verb
    kind: RepoKind = "model"
    repo_id: str = ""
    revision: str = "main"
    path: str = ""


NOTHING = Target(verb="nothing")


def is_repo_id(text: str) -> bool:
    """Return whether the Hub could have a repo of this name; such a name is also a safe path of one or two parts."""
    parts = text.split("/")
    return len(parts) <= 2 and all(
        _NAME.fullmatch(part) is not None and "--" not in part and ".." not in part for part in parts
    )


def parse_target(raw_path: str) -> Target:
    """Return what a quoted URL path names; `NOTHING` for all that is no URL of a Hub.

    A quoted slash is one only within a revision (`refs%2Fpr%2F1`), where the hub's client writes it; elsewhere it
    would make one name of two, or two of one.
    """
    if len(raw_path) > _MOST_URL_BYTES or not raw_path.startswith("/"):
        return NOTHING
    try:
        segments = [unquote_to_bytes(part).decode() for part in raw_path[1:].split("/")]
    except UnicodeDecodeError:
        return NOTHING
    if any(_CONTROL.search(segment) for segment in segments):
        return NOTHING
    if segments[0] == "api":
        return _api(segments[1:])
    kind: RepoKind = "model"
    if segments[0] in _KINDS:
        kind, segments = _KINDS[segments[0]], segments[1:]
    # The name of a repo has two segments, or one in the oldest repos.
    for at in (2, 1):
        if len(segments) > at + 2 and segments[at] == "resolve" and is_repo_id("/".join(segments[:at])):
            return _target("resolve", kind, segments[:at], segments[at + 1 :])
    return NOTHING


def _api(segments: Sequence[str]) -> Target:
    if not segments or segments[0] not in _KINDS:
        return NOTHING
    kind, rest = _KINDS[segments[0]], segments[1:]
    if not rest or rest == [""]:
        return Target(verb="list", kind=kind)
    for at in (2, 1):
        if len(rest) > at and rest[at] in _API_VERBS and is_repo_id("/".join(rest[:at])):
            return _target(_API_VERBS[rest[at]], kind, rest[:at], rest[at + 1 :])
    if len(rest) > 2 or not is_repo_id("/".join(rest)):
        return NOTHING
    return Target(verb="info", kind=kind, repo_id="/".join(rest))


def _target(verb: Verb, kind: RepoKind, repo: Sequence[str], rest: Sequence[str]) -> Target:
    if any("/" in part for part in repo):
        return NOTHING
    # One revision also where its slashes are not quoted.
    width = 3 if len(rest) > 2 and rest[0] == "refs" and rest[1] in ("pr", "convert") else 1
    if any("/" in part for part in rest[width:]):
        return NOTHING
    path = "/".join(rest[width:])
    path = path if verb == "resolve" else path.strip("/")
    return Target(verb=verb, kind=kind, repo_id="/".join(repo), revision="/".join(rest[:width]) or "main", path=path)
