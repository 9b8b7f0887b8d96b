"""What `verify` was asked for, whether that makes sense, and what its target is: a repo, a cache or a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fetchverify.commands.truth import repo_of
from fetchverify.core.manifest import RepoKind
from fetchverify.core.reference import is_path
from fetchverify.core.retry import PATIENT
from fetchverify.errors import AbsentError, UsageError
from fetchverify.store.survey import repo_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What `fetchverify verify` was asked for; None means "as the hub client does"."""

    target: str | None = None
    all: bool = False
    repo: str | None = None
    repo_type: RepoKind | None = None
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    cache_dir: Path | None = None
    endpoint: str | None = None
    token: str | None = None
    offline: bool = False
    strict: bool = False
    allow_missing: bool = False
    retries: int = PATIENT.attempts
    quick: bool = False
    deep: bool = False
    blocks_first: bool = False
    """Compare the blocks of what changed before it is hashed: for who expects damage."""
    sums: Path | None = None
    write_sums: Path | None = None
    """The empty path for `SHA256SUMS` in the folder, or here for a repo in the cache."""
    details: bool = False
    """Name the good files, too."""
    doctor: bool = True
    """Look at the headers of a model's weights, and say what is broken in the repo itself."""


def check(options: VerifyOptions) -> None:
    """Refuse what makes no sense.

    Raises:
        UsageError: with what to type instead.
    """
    if (options.target is None) != options.all:
        if options.all:
            raise UsageError("`--all` is the whole cache: it takes no REPO_ID")
        raise UsageError("nothing was named", hint="type `org/name`, a path such as `./name`, or `--all`")
    if options.quick and options.deep:
        raise UsageError("`--quick` and `--deep` exclude each other")
    if options.all and options.revision is not None:
        raise UsageError("`--all` takes every revision that is there", hint="leave out `-r`")
    if options.all and options.write_sums is not None:
        raise UsageError("`--write-sums` takes one repo, not `--all`")
    folder = options.target is not None and is_path(options.target) and inside_a_cache(options.target) is None
    if not folder and options.sums is not None:
        raise UsageError("`--sums` goes with a folder: type its path, such as `./name`")
    if options.sums is not None and options.revision is not None:
        raise UsageError("`--sums` says what the files are, and `-r` would have the Hub say it", hint="leave one out")
    if not folder and options.repo is not None:
        raise UsageError("`--repo` says what a folder holds: type its path, such as `./name`")


def inside_a_cache(target: str) -> dict[str, Any] | None:
    """Return the options that stand for a path of a cache, one of its repos or snapshots; None for other paths."""
    if not is_path(target):
        return None
    path = Path(os.path.realpath(Path(target).expanduser()))
    for folder in (path, *path.parents):
        repo = repo_of(folder.name)
        if repo is not None and ((folder / "snapshots").is_dir() or (folder / "refs").is_dir()):
            inside = path.relative_to(folder).parts
            found: dict[str, Any] = {"target": repo[1], "repo_type": repo[0], "cache_dir": folder.parent}
            if len(inside) == 2 and inside[0] == "snapshots":
                return found | {"revision": inside[1]}
            return found if not inside else None
    if path.is_dir() and (path / "CACHEDIR.TAG").is_file() and repo_folders(path):
        return {"target": None, "all": True, "cache_dir": path}
    return None


def folder_at(text: str) -> Path:
    """Return the folder that was named."""
    directory = Path(text).expanduser()
    if not directory.is_dir():
        raise AbsentError(f"there is no folder `{text}`")
    return directory
