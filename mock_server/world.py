"""Repos as data: what the mock Hub has, in which revisions and for whom; how it answers is left to `app`."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mock_server.content import Content, MiB, Seeded, as_content

Kind = Literal["model", "dataset", "space"]
KINDS: tuple[Kind, ...] = ("model", "dataset", "space")
FileValue = Content | bytes | str | Path

LFS_ABOVE = MiB
# The Hub's default .gitattributes of a new model repo.
_LFS_SUFFIXES_TEXT = """
    7z arrow bin bz2 ckpt ftz gguf gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth
    rar safetensors tar tflite tgz wasm xz zip zst
"""
LFS_SUFFIXES = frozenset(_LFS_SUFFIXES_TEXT.split())
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """A file of one commit."""

    path: str
    content: Content
    lfs: bool

    @property
    def size(self) -> int:
        """Length of the file itself, not of its LFS pointer."""
        return self.content.size

    def pointer(self) -> bytes:
        """Return what git holds in place of an LFS file."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.content.sha256()}\nsize {self.size}\n"
        ).encode()

    def git_oid(self) -> str:
        """Return the git blob id: that of the pointer for an LFS file."""
        if not self.lfs:
            return self.content.git_sha1()
        pointer = self.pointer()
        return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()

    def etag(self) -> str:
        """Return the identity the Hub announces: sha256 for LFS, the git blob id for the rest."""
        return self.content.sha256() if self.lfs else self.content.git_sha1()


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A directory of one commit, as the tree API lists it."""

    path: str
    oid: str


class Commit:
    """One immutable state of a repo."""

    def __init__(self, *, files: Mapping[str, RepoFile], parent: str | None, title: str, salt: str) -> None:
        self.files = {path: files[path] for path in sorted(files)}
        self.parent = parent
        self.title = title
        self.date = _DATE
        digest = hashlib.sha1(f"commit\0{salt}\0{parent}\0{title}\0".encode(), usedforsecurity=False)
        for file in self.files.values():
            digest.update(f"{file.path}\0{file.lfs}\0{file.content.fingerprint}\0".encode())
        self.id = digest.hexdigest()
        self._listings: dict[tuple[str, bool], list[RepoFile | Folder]] = {}

    def entries(self, path: str = "", *, recursive: bool = False) -> list[RepoFile | Folder] | None:
        """Return what lies under a folder, sorted by path; None if there is no such folder."""
        key = (path, recursive)
        if key not in self._listings:
            prefix = f"{path}/" if path else ""
            found: dict[str, RepoFile | Folder] = {}
            for name, file in self.files.items():
                if not name.startswith(prefix):
                    continue
                parts = name[len(prefix) :].split("/")
                for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                    folder = prefix + "/".join(parts[:depth])
                    found.setdefault(folder, Folder(path=folder, oid=self.folder_oid(folder)))
                if recursive or len(parts) == 1:
                    found[name] = file
            self._listings[key] = [found[name] for name in sorted(found)]
        listing = self._listings[key]
        return listing if listing or not path else None

    def folder(self, path: str) -> Folder | None:
        """Return a folder that holds at least one file."""
        path = path.strip("/")
        if not any(name.startswith(f"{path}/") for name in self.files):
            return None
        return Folder(path=path, oid=self.folder_oid(path))

    def folder_oid(self, path: str) -> str:
        """Return a stable git-like tree id for a folder."""
        return hashlib.sha1(f"tree\0{self.id}\0{path}".encode(), usedforsecurity=False).hexdigest()


class Repo:
    """A repo with branches, tags and commits; it may be changed while it is served.

    `gated` is open to `tokens` only (its listing stays public, as on the Hub), `private` hides the repo from
    everybody else, `disabled` refuses all.
    """

    def __init__(
        self,
        repo_id: str,
        kind: Kind = "model",
        *,
        private: bool = False,
        gated: bool = False,
        disabled: bool = False,
        tokens: Iterable[str] = (),
    ) -> None:
        self.repo_id = repo_id
        self.kind = kind
        self.private = private
        self.gated = gated
        self.disabled = disabled
        self.tokens = set(tokens)
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self._lock = threading.RLock()

    def commit(
        self,
        files: Mapping[str, FileValue | None] | Iterable[RepoFile],
        *,
        branch: str = "main",
        title: str = "Upload files",
        replace: bool = False,
        lfs: bool | None = None,
    ) -> str:
        """Put a new commit on a branch and return its id.

        Given files are added to those of the branch, or stand alone with `replace`; None removes one. A branch
        that does not exist yet starts from `main`.

        Args:
            files: contents by path, or ready `RepoFile` values.
            branch: the branch to move; `refs/pr/1` is one too.
            title: the commit message.
            replace: forget the files of the parent.
            lfs: force the way files are stored; None decides by name and size, as the Hub does.
        """
        with self._lock:
            parent = self.branches.get(branch, self.branches.get("main"))
            merged = {} if replace or parent is None else dict(self.commits[parent].files)
            if isinstance(files, Mapping):
                for path, value in files.items():
                    if value is None:
                        merged.pop(path, None)
                    else:
                        merged[path] = repo_file(path, value, lfs=lfs)
            else:
                merged.update((file.path, file) for file in files)
            commit = Commit(files=merged, parent=parent, title=title, salt=f"{self.kind}:{self.repo_id}")
            self.commits[commit.id] = commit
            self.branches[branch] = commit.id
            return commit.id

    def force_push(self, files: Mapping[str, FileValue | None], *, branch: str = "main") -> str:
        """Replace a branch's whole history by one commit and return its id; the old head is gone (404)."""
        with self._lock:
            old = self.branches.pop(branch, None)
            new = self.commit(files, branch=branch, title="Squash history", replace=True)
            if old is not None and old != new:
                self.commits.pop(old, None)
            return new

    def tag(self, name: str, revision: str = "main") -> str:
        """Point a tag at a revision and return the commit id."""
        commit = self.at(revision)
        if commit is None:
            raise KeyError(revision)
        self.tags[name] = commit.id
        return commit.id

    def delete_revision(self, revision: str) -> None:
        """Remove a branch, a tag or a commit; asking for it then answers RevisionNotFound."""
        with self._lock:
            for names in (self.branches, self.tags):
                names.pop(revision, None)
            self.commits.pop(revision, None)

    def at(self, revision: str) -> Commit | None:
        """Return the commit a revision names: a branch, a tag, a full commit id or a prefix of 7 and more."""
        with self._lock:
            full = self.branches.get(revision) or self.tags.get(revision)
            if full is None and revision.startswith(("refs/heads/", "refs/tags/")):
                short = revision.split("/", 2)[2]
                full = self.branches.get(short) or self.tags.get(short)
            if full is None and len(revision) >= 7:
                full = next((commit for commit in self.commits if commit.startswith(revision)), None)
            return None if full is None else self.commits.get(full)

    def head(self, revision: str = "main") -> Commit:
        """Return the commit of a revision that must exist."""
        commit = self.at(revision)
        if commit is None:
            raise KeyError(f"{self.repo_id} has no revision {revision}")
        return commit

    def file(self, path: str, revision: str = "main") -> RepoFile:
        """Return a file that must exist."""
        return self.head(revision).files[path]


class World:
    """All repos of a mock Hub and the tokens it knows.

    `tokens` maps each valid token to its user's name; any other token is refused with 401, also on public
    repos, as on the Hub. A token listed with a repo is valid too.
    """

    def __init__(
        self, repos: Iterable[Repo] = (), *, tokens: Mapping[str, str] | None = None, any_token: bool = False
    ) -> None:
        self.tokens = {"hf_demo": "demo", "hf_stranger": "stranger"} if tokens is None else dict(tokens)
        self.any_token = any_token
        self.renamed: dict[tuple[Kind, str], str] = {}
        self._repos = {(repo.kind, repo.repo_id): repo for repo in repos}

    def add(
        self,
        repo_id: str,
        files: Mapping[str, FileValue | None] | Iterable[RepoFile] = (),
        *,
        kind: Kind = "model",
        private: bool = False,
        gated: bool = False,
        disabled: bool = False,
        tokens: Iterable[str] = (),
        lfs: bool | None = None,
    ) -> Repo:
        """Create a repo with one commit on `main` and return it."""
        repo = Repo(repo_id, kind, private=private, gated=gated, disabled=disabled, tokens=tokens)
        repo.commit(files, title="Initial commit", lfs=lfs)
        self._repos[kind, repo_id] = repo
        return repo

    def repo(self, repo_id: str, kind: Kind = "model") -> Repo:
        """Return a repo that must exist."""
        return self._repos[kind, repo_id]

    def find(self, kind: Kind, repo_id: str) -> Repo | None:
        """Return the repo of exactly this name."""
        return self._repos.get((kind, repo_id))

    def remove(self, repo_id: str, kind: Kind = "model") -> None:
        """Delete a repo."""
        del self._repos[kind, repo_id]

    def rename(self, old: str, new: str, kind: Kind = "model") -> None:
        """Give a repo a new name; the old one redirects to it (307)."""
        repo = self._repos.pop((kind, old))
        repo.repo_id = new
        self._repos[kind, new] = repo
        self.renamed[kind, old] = new

    def repos(self, kind: Kind | None = None) -> list[Repo]:
        """Return all repos, sorted by kind and name."""
        return [self._repos[key] for key in sorted(self._repos) if kind is None or key[0] == kind]

    def user(self, token: str) -> str | None:
        """Return the user a token belongs to, None if the token is bad."""
        if token in self.tokens:
            return self.tokens[token]
        listed = any(token in repo.tokens for repo in self._repos.values())
        return "user" if listed or self.any_token else None

    @classmethod
    def load_root(cls, root: str | Path) -> "World":
        """Return the world lying in a folder: `models/ORG/NAME/...`, `datasets/...` and `spaces/...`.

        A first-level folder that directly holds files is a legacy repo without an organisation (`models/gpt2`).
        """
        world = cls()
        for kind in KINDS:
            for repo_id, folder in _repo_folders(Path(root) / f"{kind}s"):
                files: dict[str, FileValue | None] = {
                    path.relative_to(folder).as_posix(): path
                    for path in sorted(folder.rglob("*"))
                    if path.is_file() and ".git" not in path.relative_to(folder).parts
                }
                world.add(repo_id, files, kind=kind)
        return world


def repo_file(path: str, value: FileValue, *, lfs: bool | None = None) -> RepoFile:
    """Return a file, stored by LFS if its name or size asks for it and `lfs` does not say otherwise."""
    content = as_content(value)
    return RepoFile(path=path, content=content, lfs=is_lfs(path, content.size) if lfs is None else lfs)


def is_lfs(path: str, size: int) -> bool:
    """Tell whether the Hub would store this file by LFS."""
    return size > LFS_ABOVE or path.rpartition(".")[2].lower() in LFS_SUFFIXES


def many_small_files(count: int, *, size: int = 200, seed: str = "small", per_folder: int = 1000) -> list[RepoFile]:
    """Return `count` generated small text-sized files in folders; 100,000 of them cost tens of megabytes."""
    width = len(str(max(count - 1, 1)))
    return [
        RepoFile(
            path=f"part-{index // per_folder:04d}/file-{index:0{width}d}.txt",
            content=Seeded(size, f"{seed}:{index}"),
            lfs=False,
        )
        for index in range(count)
    ]


def _repo_folders(base: Path) -> Iterator[tuple[str, Path]]:
    if not base.is_dir():
        return
    for first in sorted(path for path in base.iterdir() if path.is_dir()):
        inner = sorted(first.iterdir())
        if any(path.is_file() for path in inner):
            yield first.name, first
        else:
            yield from ((f"{first.name}/{path.name}", path) for path in inner if path.is_dir())
