"""What the repo promises: which files, how long, with which digest; reading it off the wire is left to `net`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NewType, TypeAlias

RepoKind: TypeAlias = Literal["model", "dataset", "space"]
Commit = NewType("Commit", str)  # 40 lower-case hex digits
RepoPath = NewType("RepoPath", str)  # checked by `core.paths`: relative, `/`-separated, safe on every platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The identity of a file: `sha256` of its bytes for LFS, `git-sha1` (git blob id) for the rest."""

    algo: Literal["sha256", "git-sha1"]
    hex: str

    @property
    def key(self) -> str:
        """Return `<algo>-<hex>`, a file name."""
        return f"{self.algo}-{self.hex}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoRef:
    """What the user asked for: a repo and a revision (branch, tag or commit)."""

    kind: RepoKind
    repo_id: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file as the commit's tree promises it.

    Attributes:
        size: bytes of the content (not of an LFS pointer).
        blob_id: git object id of what git stores (for LFS: of the pointer); kept for the hub's tree cache.
        xet_hash: as the tree says, kept for the hub's tree cache.
    """

    path: RepoPath
    size: int
    digest: Digest
    blob_id: str
    xet_hash: str | None = None

    @property
    def is_lfs(self) -> bool:
        """True where the content lies in LFS (or Xet) and not in git."""
        return self.digest.algo == "sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every file of one commit, in the tree's order; paths are unique and safe."""

    ref: RepoRef
    commit: Commit
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(file.size for file in self.files)
