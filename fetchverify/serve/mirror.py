"""What a mirror can be asked by whoever serves it; the layouts on disk are `cached` and `foldered`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fetchverify.core.manifest import Commit, RemoteFile, RepoKind
from fetchverify.serve.records import Held, Why


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """The files that a commit promises, by path; compared by identity, for what is kept of it."""

    commit: Commit
    files: Mapping[str, RemoteFile]

    @property
    def cost(self) -> int:
        """How much memory it takes, in files."""
        return len(self.files) + 16


class Repo(Protocol):
    """One repo of a mirror. Methods block, may be called from any thread, and raise OSError where the disk fails."""

    def commit(self, revision: str) -> Commit | None:
        """Return the commit of a revision; None where the mirror has no such revision."""

    def refs(self) -> Mapping[str, Commit]:
        """Return all revisions that have a name."""

    def listing(self, commit: Commit) -> Listing | None:
        """Return what the commit promises, be it held or not; None where nothing of the commit lies here."""

    def hold(self, commit: Commit, file: RemoteFile) -> Held | Why:
        """Open a promised file where it is complete and nothing speaks against its bytes, else say why not."""


class Mirror(Protocol):
    """All repos of a mirror; the rules of `Repo` hold here, too."""

    def repo(self, kind: RepoKind, repo_id: str) -> Repo | None:
        """Return a repo, None where the mirror has none of that name; `repo_id` was checked to be one."""

    def names(self, kind: RepoKind) -> Sequence[str]:
        """Return the names of all repos of a kind, sorted."""
