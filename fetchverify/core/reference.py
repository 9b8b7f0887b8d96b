"""What people type or paste for a repo, taken apart; whether it exists is left to `net`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from fetchverify.core.manifest import RepoKind, RepoPath, RepoRef
from fetchverify.core.paths import check_path, shown
from fetchverify.errors import UntrustedMetadataError, UsageError

DEFAULT_REVISION = "main"
# Whose pages are known for a Hub's, whatever the endpoint is.
HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com"})

_KINDS: dict[str, RepoKind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
# Each part begins and ends with a word character. Source: huggingface_hub 2.4.0 `utils/_validators.py`.
_PART = r"\w(?:[\w.\-]{0,94}\w)?"
_REPO_ID = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
# Revisions that hold a slash and are taken whole. Source: huggingface_hub 2.4.0 `utils/_hf_uris.py`.
_SPECIAL_REVISION = re.compile(r"refs/(?:convert/[\w.\-]+|pr/\d+)(?=/|\Z)", re.ASCII)
_COMMIT = re.compile(r"[0-9A-Fa-f]{40}")
# git check-ref-format(1), plus what no terminal should see.
_NOT_IN_REVISIONS = re.compile(
    "[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff~^:?*\\[\\\\]|\\.\\.|@\\{|//|/\\.|\\.lock(?:/|\\Z)"
)
_MOST_REVISION_BYTES = 255
_LOCATIONS = frozenset({"tree", "blob", "resolve", "raw", "blame"})
_REVISIONS = frozenset({"commit", "commits", "revision"})
# First segments of pages that are no repo's.
_PAGES = frozenset(
    {"api", "blog", "buckets", "chat", "collections", "docs", "join", "kernels", "learn", "login", "new"}
    | {"organizations", "papers", "posts", "pricing", "settings", "tasks"}
)
_GIT_SSH = re.compile(r"(?:ssh://)?git@(?P<host>[^:/]+)[:/](?P<path>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What was asked for; `path` is one file or folder of the repo, where the address names one."""

    ref: RepoRef
    path: RepoPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """An address taken apart and not judged yet; `kind` and `revision` are None where it does not say."""

    kind: RepoKind | None
    repo_id: str
    revision: str | None = None
    path: str = ""


def is_path(text: str) -> bool:
    """Return True where `text` is a path on this machine: a dot, a slash of either kind, `~` or a drive comes first."""
    return text.startswith((".", "/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", text) is not None


def parse_reference(
    text: str, *, kind: RepoKind | None = None, revision: str | None = None, hosts: Collection[str] = ()
) -> Reference:
    """Return the repo, revision and path that `text` names.

    Takes `org/name`, `name`, `org/name@rev`, `datasets/org/name`, `hf://[datasets/]org/name[@rev][/path]`, and the
    addresses of the Hub's pages and of git. `a/b` is always a repo, never a path on disk.

    Args:
        text: as typed or pasted.
        kind: what `-t` says, or None.
        revision: what `-r` says, or None.
        hosts: further hosts whose pages are a Hub's, as the endpoint's: `host`, `host:port`, with `/prefix` if any.

    Raises:
        UsageError: it is no such address, or says something else than `kind` or `revision` do.
    """
    text = text.strip()
    if not text:
        raise UsageError("no repo was named", hint="type `org/name`")
    if is_path(text):
        raise UsageError(f"`{shown(text)}` is a path on this machine, not a repo", hint="type `org/name`")
    parts = _take_apart(text, hosts)
    repo_id = _checked_repo_id(parts.repo_id)
    if kind is not None and parts.kind not in (None, kind):
        raise UsageError(
            f"`{_safe(text)}` names a {parts.kind}, `-t` a {kind}", hint="leave out `-t`: the address says it already"
        )
    given = None if revision is None else _checked_revision(revision)
    named = None if parts.revision is None else _checked_revision(parts.revision)
    if given is not None and named not in (None, given):
        raise UsageError(
            f"`{_safe(text)}` names the revision `{shown(named)}`, `-r` names `{shown(given)}`",
            hint="give the revision once",
        )
    ref = RepoRef(kind=kind or parts.kind or "model", repo_id=repo_id, revision=named or given or DEFAULT_REVISION)
    return Reference(ref=ref, path=_checked_path(parts.path.strip("/")))


def _take_apart(text: str, hosts: Collection[str]) -> _Parts:
    lowered = text.lower()
    if lowered.startswith("hf://"):
        return _from_hf_uri(text, text[len("hf://") :])
    if lowered.startswith(("http://", "https://")):
        return _from_url(text, text, hosts)
    ssh = _GIT_SSH.fullmatch(text)
    if ssh is not None:
        return _from_url(text, f"https://{ssh['host']}/{ssh['path']}", hosts)
    if _begins_with_host(lowered, hosts):
        return _from_url(text, f"https://{text}", hosts)
    if "://" in text:
        raise UsageError(
            f"`{_safe(text)}` is no address of a Hub", hint="type `org/name` or `https://huggingface.co/org/name`"
        )
    return _from_bare(text)


def _from_bare(text: str) -> _Parts:
    name, at, revision = text.partition("@")
    kind, name = _split_kind(name, least=2)
    repo_id, path = _first_two(name.rstrip("/"))
    if path:
        raise UsageError(
            f"`{shown(text)}` has too many parts for a repo",
            hint=f"files come after the repo: `{shown(repo_id)} {shown(path)}`",
        )
    return _Parts(kind=kind, repo_id=_without_git(repo_id), revision=unquote(revision) if at else None)


def _from_hf_uri(text: str, body: str) -> _Parts:
    kind, location = _split_kind(body, least=1)
    if location.partition("/")[0] in {"buckets", "kernels"}:
        raise UsageError(f"`{shown(text)}` is no model, dataset or space", hint="only these can be fetched")
    head, at, tail = location.partition("@")
    # An `@` further right than the repo's name belongs to a file.
    if not at or head.count("/") > 1:
        repo_id, path = _first_two(location)
        return _Parts(kind=kind, repo_id=_without_git(repo_id), path=path)
    revision, path = _split_revision(tail)
    return _Parts(kind=kind, repo_id=_without_git(head), revision=revision, path=path)


def _from_url(text: str, url: str, hosts: Collection[str]) -> _Parts:
    try:
        split = urlsplit(url)
        path = _path_below_endpoint(split, hosts)
    except ValueError:
        raise UsageError(f"`{_safe(text)}` is no address") from None
    if path is None:
        raise UsageError(
            f"`{_safe(text)}` lies on no Hub that is known",
            hint=f"name it with `--endpoint {split.scheme}://{shown(split.netloc.rpartition('@')[2])}`",
        )
    segments = [segment for segment in path.split("/") if segment]
    if segments[:1] == ["api"] and len(segments) > 2:
        segments = segments[1:]
    kind: RepoKind = "model"
    if segments and segments[0] in _KINDS:
        kind = _KINDS[segments.pop(0)]
    if not segments or segments[0] in _PAGES:
        raise UsageError(f"`{_safe(text)}` is no page of a repo", hint="paste the address of a repo or of a file in it")
    # The oldest repos have no organisation: `gpt2/resolve/main/config.json`.
    length = 1 if len(segments) == 1 or (segments[1] in _LOCATIONS | _REVISIONS and len(segments) > 2) else 2
    repo_id = _without_git("/".join(unquote(segment) for segment in segments[:length]))
    action, rest = (segments[length], segments[length + 1 :]) if len(segments) > length else ("", [])
    if action in _LOCATIONS and rest:
        # Taken apart before unquoting: a quoted slash belongs to the revision, a bare one ends it.
        revision, inside = _split_revision("/".join(rest))
        return _Parts(kind=kind, repo_id=repo_id, revision=revision, path=unquote(inside))
    if action in _REVISIONS and rest:
        return _Parts(kind=kind, repo_id=repo_id, revision=unquote("/".join(rest)))
    if action in {"", "viewer", "tree"}:
        return _Parts(kind=kind, repo_id=repo_id)
    pull_request = action == "discussions" and len(rest) == 1 and rest[0].isdecimal()
    instead = f"{repo_id}@refs/pr/{rest[0]}" if pull_request else repo_id
    raise UsageError(f"`{_safe(text)}` is no page that names files", hint=f"type `{shown(instead)}`")


def _path_below_endpoint(split: SplitResult, hosts: Collection[str]) -> str | None:
    """Return the URL's path below the Hub's root; None where the host is no Hub's."""
    host = (split.hostname or "").lower()
    places = {host} if split.port is None else {f"{host}:{split.port}"}
    if split.port in (80, 443):
        places.add(host)
    for known in hosts:
        place, _, prefix = known.lower().rstrip("/").partition("/")
        if place in places:
            below = prefix and split.path.lower().startswith(f"/{prefix}/")
            return split.path[len(prefix) + 1 :] if below else split.path
    return split.path if places & HUB_HOSTS else None


def _begins_with_host(lowered: str, hosts: Collection[str]) -> bool:
    """Return True for `huggingface.co/org/name`; a host without dot or port could be an organisation."""
    host, slash, _ = lowered.partition("/")
    known = HUB_HOSTS | {known.lower().partition("/")[0] for known in hosts}
    return bool(slash) and host in known and ("." in host or ":" in host)


def _split_kind(location: str, *, least: int) -> tuple[RepoKind | None, str]:
    """Split `datasets/` off, where at least `least` parts of a repo's name follow."""
    prefix, slash, rest = location.partition("/")
    if slash and prefix in _KINDS and rest.partition("@")[0].strip("/").count("/") >= least - 1:
        return _KINDS[prefix], rest
    return None, location


def _split_revision(tail: str) -> tuple[str, str]:
    """Split `<revision>[/<path>]`; a revision with a slash is `refs/pr/1`, or has its slashes quoted."""
    special = _SPECIAL_REVISION.match(tail)
    if special is not None:
        return special[0], tail[special.end() :]
    revision, _, path = tail.partition("/")
    return unquote(revision), path


def _first_two(location: str) -> tuple[str, str]:
    """Split `org/name[/path]`; what has one part has no path."""
    parts = location.split("/", 2)
    return "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""


def _without_git(repo_id: str) -> str:
    return repo_id.rstrip("/").removesuffix(".git")


def is_repo_id(text: str) -> bool:
    """Return whether the Hub could have a repo of this name.

    Source: huggingface_hub 2.4.0 `utils/_validators.py::validate_repo_id`.
    """
    return bool(_REPO_ID.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


def _checked_repo_id(repo_id: str) -> str:
    """Return the id where the Hub could have such a repo."""
    if is_repo_id(repo_id):
        return repo_id
    raise UsageError(
        f"`{shown(repo_id)}` is no name of a repo",
        hint="type `org/name`: letters, digits, `-`, `_` and `.`, without `--` or `..`, at most 96 of them a part",
    )


def _checked_revision(revision: str) -> str:
    """Return the revision where git could have such a branch, tag or commit; a commit in lower case."""
    if not revision:
        raise UsageError("the revision is empty", hint="type a branch, a tag or a commit, or nothing for `main`")
    if (
        _NOT_IN_REVISIONS.search(revision)
        or revision[0] in "/.-"
        or revision[-1] in "/."
        or len(revision.encode()) > _MOST_REVISION_BYTES
    ):
        raise UsageError(f"`{shown(revision)}` is no name of a revision", hint="type a branch, a tag or a commit")
    return revision.lower() if _COMMIT.fullmatch(revision) else revision


def _checked_path(path: str) -> RepoPath | None:
    if not path:
        return None
    try:
        return check_path(path)
    except UntrustedMetadataError:
        raise UsageError(f"`{shown(path)}` is no path in a repo") from None


def _safe(text: str) -> str:
    """Return an address for a message, without what may be secret in it."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() != "hf":
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
        place, slash, path = rest.partition("/")
        text = f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"
    return shown(text)
