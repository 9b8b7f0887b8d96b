"""Calls of the `git` command in one directory, and nothing of the caller's environment that names another repo."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fetchverify.errors import FetchverifyError, UsageError

# They say which repo git works on (`git rev-parse --local-env-vars`): a hook's environment must not beat PATH.
_WHICH_REPO = """
    GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_COMMON_DIR GIT_DIR GIT_GRAFT_FILE GIT_IMPLICIT_WORK_TREE GIT_INDEX_FILE
    GIT_INTERNAL_SUPER_PREFIX GIT_NAMESPACE GIT_NO_REPLACE_OBJECTS GIT_OBJECT_DIRECTORY GIT_PREFIX
    GIT_REPLACE_REF_BASE GIT_SHALLOW_FILE GIT_WORK_TREE
"""
# Looking must change nothing and start nothing: no index refreshed, no monitor, no bare repo that lies in a work tree.
_SETTINGS = ("-c", "core.fsmonitor=false", "-c", "safe.bareRepository=explicit", "--no-optional-locks", "--no-pager")


class GitError(FetchverifyError):
    """Git refused what it was asked for."""

    exit_code = UsageError.exit_code

    def __init__(self, message: str, *, hint: str | None = None, status: int = 128) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Git:
    """The `git` command in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(
        self, *arguments: str, data: bytes = b"", extra: Mapping[str, str] | None = None, quick: bool = True
    ) -> bytes:
        """Return what a command prints.

        Args:
            arguments: after `git`.
            data: for its stdin.
            extra: environment variables.
            quick: it may take no longer than two minutes.

        Raises:
            GitError: it failed; the message holds what it said.
        """
        try:
            done = subprocess.run(
                ["git", *_SETTINGS, *arguments],
                cwd=self.directory,
                env=_environment() | dict(extra or {}),
                input=data,
                capture_output=True,
                check=False,
                timeout=120 if quick else None,
            )
        except FileNotFoundError as error:
            if shutil.which("git") is None:
                raise GitError("`git` is not installed", hint="install git; git-lfs is not needed") from error
            raise GitError(f"`{self.directory}` is no folder") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GitError(f"`git {arguments[0]}` could not be run: {error}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            why = said[0].removeprefix("fatal: ").removeprefix("error: ") if said else f"exit code {done.returncode}"
            raise GitError(f"`git {arguments[0]}` failed in `{self.directory}`: {why}", status=done.returncode)
        return done.stdout


def _environment() -> dict[str, str]:
    unwanted = set(_WHICH_REPO.split())
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"LC_ALL": "C"}
