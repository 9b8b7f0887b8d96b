"""URLs of the Hub taken apart; whether what they name exists is left to `app`."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from mock_server.messages import Origin, Route
from mock_server.world import KINDS, Kind

Verb = Literal["info", "tree", "paths-info", "refs", "list", "whoami", "resolve", "git", "lfs", "cdn", "nothing"]

_PREFIXES: dict[str, Kind] = {f"{kind}s": kind for kind in KINDS}
_API_VERBS: dict[str, Verb] = {"revision": "info", "tree": "tree", "paths-info": "paths-info", "refs": "refs"}
_ROUTES: dict[Verb, Route] = {
    "info": "api",
    "tree": "tree",
    "paths-info": "paths-info",
    "refs": "api",
    "list": "api",
    "whoami": "api",
    "resolve": "resolve",
    "git": "git",
    "lfs": "lfs",
    "cdn": "cdn",
    "nothing": "other",
}
_GIT_TAILS: tuple[tuple[Verb, list[str]], ...] = (
    ("lfs", ["info", "lfs", "objects", "batch"]),
    ("git", ["info", "refs"]),
    ("git", ["git-upload-pack"]),
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL names, unquoted."""

    verb: Verb
    kind: Kind = "model"
    repo_id: str | None = None
    revision: str | None = None
    path: str | None = None
    sha256: str | None = None

    @property
    def route(self) -> Route:
        """The name of this route for rules and ledger."""
        return _ROUTES[self.verb]


NOTHING = Target(verb="nothing")


def parse_target(origin: Origin, raw_path: str) -> Target:
    """Return what a quoted URL path names on an origin."""
    parts = raw_path.strip("/").split("/")
    segments = [unquote(part) for part in parts]
    if segments[0] == "blobs" and origin in {"cdn", "other"}:
        return _cdn(segments[1:])
    if origin == "cdn":
        return NOTHING
    if segments[0] == "api":
        return _api(segments[1:])
    kind: Kind = "model"
    if segments[0] in _PREFIXES and len(segments) > 2:
        kind = _PREFIXES[segments[0]]
        segments = segments[1:]
    return _git(kind, segments) or _resolve(kind, segments)


def blob_path(kind: Kind, repo_id: str, sha256: str, path: str) -> str:
    """Return the quoted CDN path of a file."""
    return f"/blobs/{kind}s/{quote(repo_id)}/{sha256}/{quote(path)}"


def _cdn(segments: list[str]) -> Target:
    for at in (2, 3):
        if len(segments) > at + 1 and segments[0] in _PREFIXES and _SHA256.fullmatch(segments[at]):
            return Target(
                verb="cdn",
                kind=_PREFIXES[segments[0]],
                repo_id="/".join(segments[1:at]),
                sha256=segments[at],
                path="/".join(segments[at + 1 :]),
            )
    return NOTHING


def _api(segments: list[str]) -> Target:
    if segments == ["whoami-v2"]:
        return Target(verb="whoami")
    if not segments or segments[0] not in _PREFIXES:
        return NOTHING
    kind = _PREFIXES[segments[0]]
    rest = segments[1:]
    if not rest or rest == [""]:
        return Target(verb="list", kind=kind)
    # The name of a repo has two segments, or one in the oldest repos.
    for at in (2, 1):
        if len(rest) > at and rest[at] in _API_VERBS:
            verb = _API_VERBS[rest[at]]
            repo_id = "/".join(rest[:at])
            if verb == "refs":
                return Target(verb=verb, kind=kind, repo_id=repo_id)
            revision, path = _revision(rest[at + 1 :])
            return Target(verb=verb, kind=kind, repo_id=repo_id, revision=revision, path=path)
    if len(rest) > 2:
        return NOTHING
    return Target(verb="info", kind=kind, repo_id="/".join(rest))


def _git(kind: Kind, segments: list[str]) -> Target | None:
    for verb, tail in _GIT_TAILS:
        repo = segments[: -len(tail)]
        if segments[-len(tail) :] == tail and len(repo) in (1, 2):
            return Target(verb=verb, kind=kind, repo_id="/".join(repo).removesuffix(".git"), path="/".join(tail))
    return None


def _resolve(kind: Kind, segments: list[str]) -> Target:
    for at in (2, 1):
        if len(segments) > at + 2 and segments[at] == "resolve":
            revision, path = _revision(segments[at + 1 :])
            return Target(
                verb="resolve", kind=kind, repo_id="/".join(segments[:at]), revision=revision, path=path or None
            )
    return NOTHING


def _revision(segments: list[str]) -> tuple[str, str]:
    """Split revision and path; `refs/pr/1` is one revision also where its slashes were not quoted."""
    width = 3 if segments[:2] in (["refs", "pr"], ["refs", "convert"]) and len(segments) > 2 else 1
    return "/".join(segments[:width]) or "main", "/".join(segments[width:]).strip("/")
