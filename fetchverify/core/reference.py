"""What people type or paste for a repo, read into a `RepoRef`: ids, `@revision`, `hf://` addresses, URLs of a Hub."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from fetchverify.core.manifest import RepoKind, RepoRef
from fetchverify.errors import UsageError

T = TypeVar("T", bound=str)

DEFAULT_REVISION = "main"
_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com"})
_KINDS: dict[str, RepoKind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
_VIEWS = frozenset({"tree", "blob", "resolve", "raw", "commit", "blame"})
# huggingface_hub `utils/_validators.py::validate_repo_id`.
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
_REVISION = re.compile(r"(?!.*(?:\.\.|//|@\{|\\))[^\x00-\x20\x7f~^:?*\[/][^\x00-\x20\x7f~^:?*\[]{0,254}\Z")
_HINT = "for example `org/name`, `org/name@v1.0`, `hf://datasets/org/name` or a URL of the Hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A repo at a revision, and the path in it that a pasted address named (a file, or a folder with a `/` behind)."""

    ref: RepoRef
    path: str | None = None


def is_path(text: str) -> bool:
    """Return whether the text names a place on this disk; `a/b` is always a repo."""
    return text.startswith((".", "/", "~")) or re.match(r"[A-Za-z]:[\\/]", text) is not None


def parse_reference(
    text: str, *, kind: RepoKind | None = None, revision: str | None = None, hosts: Collection[str] = ()
) -> Reference:
    """Return what the text names.

    Args:
        text: as typed or pasted.
        kind: from `--repo-type`.
        revision: from `--revision`.
        hosts: further hosts whose URLs are a Hub's, such as the endpoint's.

    Raises:
        UsageError: it is no repo, or says something else than the options.
    """
    if is_path(text):
        raise UsageError(f"`{text}` is a path, not a repo", hint=_HINT)
    if text.startswith("hf://"):
        found = _from_parts(text.removeprefix("hf://").split("/"), at_sign=True)
    elif "://" in text or text.split("/")[0] in _HOSTS | set(hosts):
        found = _from_url(text, _HOSTS | set(hosts))
    else:
        found = _from_parts(text.rstrip("/").split("/"), at_sign=True)
        if found.path is not None:
            raise UsageError(f"`{text}` is not a repo's name", hint=f"{_HINT}; files follow as arguments of their own")
    return Reference(
        ref=RepoRef(
            kind=_agree("--repo-type", kind, found.kind) or "model",
            repo_id=_checked_id(text, found.repo_id),
            revision=_checked_revision(_agree("--revision", revision, found.revision) or DEFAULT_REVISION),
        ),
        path=found.path,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    kind: RepoKind | None
    repo_id: str
    revision: str | None = None
    path: str | None = None


def _from_url(text: str, hosts: Collection[str]) -> _Found:
    parts = urlsplit(text if "://" in text else "https://" + text)
    if parts.scheme not in ("http", "https") or parts.netloc.rpartition("@")[2] not in hosts:
        raise UsageError(
            f"`{parts.scheme}://{parts.netloc.rpartition('@')[2]}` is not the address of a Hub",
            hint="give its address with `--endpoint`, and the repo as `org/name`",
        )
    steps = [step for step in parts.path.split("/") if step]
    kind = _KINDS.get(steps[0]) if steps else None
    if kind is not None:
        steps = steps[1:]
    length = 1 if len(steps) == 1 or steps[1:2] and steps[1] in _VIEWS else 2
    repo_id = "/".join(steps[:length]).removesuffix(".git")
    view, rest = steps[length : length + 1], steps[length + 1 :]
    if not view:
        return _Found(kind=kind, repo_id=repo_id)
    if view[0] not in _VIEWS or not rest:
        raise UsageError(f"`{parts.path}` is not the address of a repo or a file in one", hint=_HINT)
    if rest[0] == "refs" and len(rest) >= 3:  # refs/pr/1, refs/convert/parquet: pasted unquoted
        revision, path = "/".join(rest[:3]), rest[3:]
    else:
        revision, path = unquote(rest[0]), rest[1:]
    folder = "/" if view[0] == "tree" else ""
    return _Found(
        kind=kind, repo_id=repo_id, revision=revision, path=(unquote("/".join(path)) + folder) if path else None
    )


def _from_parts(steps: list[str], *, at_sign: bool) -> _Found:
    """Read `[kind/]org/name[@revision][/path]`; a revision with slashes is `refs/...` or quoted (`%2F`)."""
    kind = _KINDS.get(steps[0]) if len(steps) > 1 else None
    if kind is not None:
        steps = steps[1:]
    length = 1 if "@" in steps[0] or len(steps) == 1 else 2
    repo_id, at, revision = "/".join(steps[:length]).partition("@") if at_sign else ("/".join(steps[:length]), "", "")
    rest = steps[length:]
    if at and revision == "refs" and len(rest) >= 2:
        revision, rest = "/".join(["refs", *rest[:2]]), rest[2:]
    if at and not revision:
        raise UsageError(f"no revision follows the `@` of `{repo_id}@`", hint=_HINT)
    return _Found(kind=kind, repo_id=repo_id, revision=unquote(revision) or None, path="/".join(rest) or None)


def _agree(option: str, given: T | None, found: T | None) -> T | None:
    if given is not None and found is not None and given != found:
        raise UsageError(f"`{option} {given}` contradicts `{found}` in the repo's name", hint="drop one of the two")
    return given if found is None else found


def _checked_id(text: str, repo_id: str) -> str:
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(_NAME.match(part) for part in parts) or repo_id.endswith(".git"):
        raise UsageError(f"{ascii(text)[1:-1][:120]!r} is not a repo's name", hint=_HINT)
    return repo_id


def _checked_revision(revision: str) -> str:
    if not _REVISION.match(revision) or revision.endswith((".lock", ".", "/")):
        raise UsageError(f"{ascii(revision)[1:-1][:120]!r} cannot be a revision", hint="a branch, a tag or a commit")
    return revision
