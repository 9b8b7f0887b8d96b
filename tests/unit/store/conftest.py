"""A repo made of bytes, and a disk to put it on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.store.disk import Disk
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache
from fetchverify.store.layout import Layout


def remote_file(path: str, data: bytes, *, xet_hash: str | None = None) -> RemoteFile:
    """Return what the Hub would promise; `.bin` files lie in LFS."""
    blob_id = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    digest = Digest(algo="git-sha1", hex=blob_id)
    if path.endswith(".bin"):
        digest = Digest(algo="sha256", hex=hashlib.sha256(data).hexdigest())
    return RemoteFile(path=RepoPath(path), size=len(data), digest=digest, blob_id=blob_id, xet_hash=xet_hash)


@dataclass(frozen=True, kw_only=True)
class Repo:
    """One commit of a repo, with its bytes."""

    contents: dict[str, bytes]
    manifest: Manifest

    def file(self, path: str) -> RemoteFile:
        return next(file for file in self.manifest.files if file.path == path)

    def at(self, digit: str, revision: str = "main", **contents: bytes) -> Repo:
        """Return another commit: `digit` forty times, files added or changed (`__` stands for a dot)."""
        changed = self.contents | {name.replace("__", "."): data for name, data in contents.items()}
        return make_repo(changed, digit=digit, revision=revision)

    def named(self, revision: str) -> Repo:
        return replace(self, manifest=replace(self.manifest, ref=replace(self.manifest.ref, revision=revision)))

    def publish(self, layout: Layout) -> None:
        """Publish everything, as a run does."""
        layout.begin(self.manifest)
        layout.publish_many([(file, self.contents[file.path]) for file in self.manifest.files])
        layout.finish(self.manifest)


def make_repo(contents: dict[str, bytes], *, digit: str = "1", revision: str = "main") -> Repo:
    files = tuple(remote_file(path, data) for path, data in contents.items())
    ref = RepoRef(kind="model", repo_id="org/name", revision=revision)
    return Repo(contents=contents, manifest=Manifest(ref=ref, commit=Commit(digit * 40), files=files))


@pytest.fixture
def repo() -> Repo:
    return make_repo(
        {
            "config.json": b"{}",
            "empty.txt": b"",
            "weights/deep/model.bin": b"w" * 5000,
            "weights/twin.bin": b"w" * 5000,
            "ünï code/with spaces.txt": b"hello",
        }
    )


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def cache(disk: Disk, tmp_path: Path) -> HubCache:
    return HubCache.for_repo(disk, tmp_path / "hub", "model", "org/name")


@pytest.fixture
def folder(disk: Disk, tmp_path: Path, cache: HubCache) -> Folder:
    return Folder(disk, tmp_path / "dir", cache=cache)


@pytest.fixture(params=["cache", "folder"])
def layout(request: pytest.FixtureRequest) -> Layout:
    """Both kinds of target: what is said of a layout holds for each."""
    found: Layout = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make() -> Callable[[dict[str, bytes]], Repo]:
    """Return how a repo is made of paths and bytes."""
    return make_repo
