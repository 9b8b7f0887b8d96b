"""Pins: which commit of a repo is wanted, and every file of it by size and digest, as a text made for review in a diff.

Finding out what a repo promises is left to `net.hub`, reading and writing the file to `store.pinfile`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoKind, RepoPath, RepoRef
from fetchverify.core.paths import check_files, check_path, check_size, shown
from fetchverify.core.pointer import pointer_blob_id
from fetchverify.core.reference import parse_reference
from fetchverify.core.tree import is_commit
from fetchverify.errors import UntrustedMetadataError, UsageError

VERSION = 1
_HEADER = f"""\
# Written by `fetchverify lock`; `fetchverify lock --update` moves it, `fetchverify get --locked` fetches exactly this.
version = {VERSION}
"""
# sha256 where the content lies in LFS, else git's own object id.
_ALGOS = {"sha256": re.compile(r"[0-9a-f]{64}"), "git-sha1": re.compile(r"[0-9a-f]{40}")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One repo at one commit; `files` are all of it, by path."""

    ref: RepoRef
    commit: Commit
    files: tuple[RemoteFile, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Pin:
        """Return the pin of what a repo promises now."""
        files = tuple(sorted(manifest.files, key=lambda file: file.path))
        return cls(ref=manifest.ref, commit=manifest.commit, files=files)

    @property
    def manifest(self) -> Manifest:
        """The pin as a promise."""
        return Manifest(ref=self.ref, commit=self.commit, files=self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A path whose promise differs between two states of a repo; sizes in bytes, None where it is not there."""

    path: RepoPath
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What became of one pin; `before` is None where the repo is new."""

    ref: RepoRef
    before: Commit | None
    after: Commit
    changes: tuple[Change, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the move as a JSON object."""
        changes = [{"path": one.path, "before": one.before, "after": one.after} for one in self.changes]
        of = {"repo_type": self.ref.kind, "repo_id": self.ref.repo_id, "revision": self.ref.revision}
        return {**of, "before": self.before, "after": self.after, "changes": changes}


def render(pins: Iterable[Pin]) -> str:
    """Return the text of a lock file: one order, one file a line."""
    parts = [_HEADER]
    for pin in sorted(pins, key=_order):
        parts.append("\n[[repo]]\n")
        fields = (("id", pin.ref.repo_id), ("type", pin.ref.kind), ("revision", pin.ref.revision))
        parts += [f"{name} = {_quoted(value)}\n" for name, value in (*fields, ("commit", pin.commit))]
        parts.append("files = [\n")
        for file in sorted(pin.files, key=lambda one: one.path):
            digest = f"{file.digest.algo} = {_quoted(file.digest.hex)}"
            parts.append(f"  {{ path = {_quoted(file.path)}, size = {file.size}, {digest} }},\n")
        parts.append("]\n")
    return "".join(parts)


def parse(text: str, *, name: str = "the lock file") -> tuple[Pin, ...]:
    """Return the pins of a lock file, every field checked: it may have come by mail.

    Raises:
        UsageError: it is no lock file, or of a later version.
        UntrustedMetadataError: a path or size is none that a repo may have.
    """
    try:
        body = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"`{name}` is no TOML: {shown(str(error))}") from error
    if body.get("version") != VERSION:
        raise UsageError(
            f"`{name}` is no lock file of this version of fetchverify", hint="write it with `fetchverify lock`"
        )
    repos = body.get("repo", [])
    if not isinstance(repos, list):
        raise UsageError(f"`{name}` holds no list of repos")
    pins = tuple(_pin(repo, name) for repo in repos)
    keys = [pin.ref for pin in pins]
    if len(set(keys)) != len(keys):
        raise UsageError(f"`{name}` pins a repo twice")
    return pins


def differences(before: Sequence[RemoteFile], after: Sequence[RemoteFile]) -> tuple[Change, ...]:
    """Return the paths whose size or digest differs, by path."""
    old, new = ({file.path: file for file in files} for files in (before, after))
    found = []
    for path in sorted(old.keys() | new.keys()):
        was, is_ = old.get(path), new.get(path)
        if was is None or is_ is None or (was.size, was.digest) != (is_.size, is_.digest):
            found.append(
                Change(path=path, before=None if was is None else was.size, after=None if is_ is None else is_.size)
            )
    return tuple(found)


def hold_to(pin: Pin, manifest: Manifest) -> Manifest:
    """Return what the Hub promises for a pinned commit, under the pinned revision.

    Raises:
        UntrustedMetadataError: it promises something else than was pinned.
    """
    if manifest.commit != pin.commit:
        raise UntrustedMetadataError(f"the Hub answers with commit `{manifest.commit}`, pinned is `{pin.commit}`")
    changes = differences(pin.files, manifest.files)
    if changes:
        some = ", ".join(f"`{shown(change.path)}`" for change in changes[:3])
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise UntrustedMetadataError(
            f"the Hub says otherwise than the pin of `{pin.ref.repo_id}` at commit `{pin.commit}`: {some}{more} differ",
            hint="a commit never changes: ask another endpoint, and do not trust this one; or was the pin edited?",
        )
    return Manifest(ref=pin.ref, commit=pin.commit, files=manifest.files)


def _order(pin: Pin) -> tuple[str, str, str]:
    return pin.ref.kind, pin.ref.repo_id, pin.ref.revision


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _pin(repo: Any, name: str) -> Pin:
    fields = repo if isinstance(repo, dict) else {}
    kind, repo_id, revision, commit = (fields.get(key) for key in ("type", "id", "revision", "commit"))
    files = fields.get("files")
    if (
        kind not in get_args(RepoKind)
        or not (isinstance(repo_id, str) and isinstance(revision, str) and isinstance(commit, str))
        or not is_commit(commit)
        or not isinstance(files, list)
    ):
        raise UsageError(f"`{name}` holds a repo without an id, a type, a revision, a commit or files")
    ref = parse_reference(repo_id, kind=kind, revision=revision).ref
    listed = tuple(sorted((_file(file, name) for file in files), key=lambda file: file.path))
    check_files(listed)
    return Pin(ref=ref, commit=Commit(commit), files=listed)


def _file(fields: Any, name: str) -> RemoteFile:
    if not isinstance(fields, Mapping):
        raise UsageError(f"`{name}` holds a file without a path")
    path = check_path(fields.get("path"))
    size = check_size(path, fields.get("size"))
    for algo, pattern in _ALGOS.items():
        value = fields.get(algo)
        if isinstance(value, str) and pattern.fullmatch(value):
            if algo == "sha256":
                digest = Digest(algo="sha256", hex=value)
                return RemoteFile(path=path, size=size, digest=digest, blob_id=pointer_blob_id(value, size))
            return RemoteFile(path=path, size=size, digest=Digest(algo="git-sha1", hex=value), blob_id=value)
    raise UsageError(f"`{name}` names no digest of `{shown(path)}`")
