"""The hub's cache: its own readers find what we wrote right, at every moment and after every crash."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fetchverify.core.manifest import Digest
from fetchverify.core.plan import Copy
from fetchverify.errors import UntrustedMetadataError
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import AnyPath
from fetchverify.store.hubcache import HubCache

if TYPE_CHECKING:
    from tests.unit.store.conftest import Repo

XET = "0f" * 32


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def scan(cache: HubCache) -> list[str]:
    from huggingface_hub import scan_cache_dir

    return [str(warning) for warning in scan_cache_dir(cache.cache_dir).warnings]


def links(cache: HubCache) -> dict[str, str]:
    root = cache.root / "snapshots"
    return {str(path.relative_to(root)): os.readlink(path) for path in root.rglob("*") if path.is_symlink()}


def test_the_hub_finds_a_whole_repo(cache: HubCache, repo: Repo) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

    repo.publish(cache)
    info = scan_cache_dir(cache.cache_dir)
    assert ([], 0) == (info.warnings, len(info.incomplete_files))
    (found,) = info.repos
    (revision,) = found.revisions
    assert ("org/name", "model", {"main"}) == (found.repo_id, found.repo_type, set(revision.refs))
    assert {Path(name).name for name in repo.contents} == {file.file_name for file in revision.files}
    assert 5007 == found.size_on_disk
    assert str(cache.target) == snapshot_download("org/name", cache_dir=cache.cache_dir, local_files_only=True)
    assert str(cache.target / "config.json") == try_to_load_from_cache(
        "org/name", "config.json", cache_dir=cache.cache_dir
    )


def test_links_are_the_hubs(cache: HubCache, repo: Repo) -> None:
    repo.publish(cache)
    sha256, commit = repo.file("weights/twin.bin").digest.hex, "1" * 40
    found = links(cache)
    assert len(repo.contents) == len(found)
    assert f"../../../../blobs/{sha256}" == found[f"{commit}/weights/deep/model.bin"]
    assert f"../../../blobs/{sha256}" == found[f"{commit}/weights/twin.bin"]
    assert (cache.cache_dir / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


def test_part_of_a_snapshot_is_not_taken_for_the_whole(cache: HubCache, repo: Repo) -> None:
    """Without the full listing the hub's `local_files_only` says nothing is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    cache.begin(repo.manifest)
    cache.publish_bytes(repo.file("config.json"), b"{}")
    cache.finish(repo.manifest)
    with pytest.raises(IncompleteSnapshotError, match="4 file"):
        snapshot_download("org/name", cache_dir=cache.cache_dir, local_files_only=True)
    assert str(cache.target) == snapshot_download(
        "org/name", cache_dir=cache.cache_dir, local_files_only=True, allow_patterns="*.json"
    )


class Watching(Disk):
    """After every operation a reader looks: no link without its blob, no ref without its snapshot, no warning."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: HubCache | None = None
        self.looks = 0

    def _look(self) -> None:
        if self.cache is None or not self.cache.root.exists():
            return
        self.looks += 1
        assert [] == scan(self.cache)
        for path in (self.cache.root / "snapshots").rglob("*"):
            assert path.exists(), f"{path} leads nowhere"
        for ref in (self.cache.root / "refs").rglob("*"):
            if ref.is_file():
                assert "main" == ref.name
                assert (self.cache.root / "snapshots" / ref.read_text()).is_dir()

    def make_dirs(self, path: AnyPath) -> None:
        super().make_dirs(path)
        self._look()

    def create(self, path: AnyPath, mode: int = 0o666) -> int:
        fd = super().create(path, mode)
        self._look()
        return fd

    def rename(self, src: AnyPath, dst: AnyPath) -> None:
        super().rename(src, dst)
        self._look()

    def make_symlink(self, target: AnyPath, dst: AnyPath) -> None:
        super().make_symlink(target, dst)
        self._look()

    def unlink(self, path: AnyPath, missing_ok: bool = False) -> None:
        super().unlink(path, missing_ok)
        self._look()


def test_a_reader_beside_us_never_sees_a_broken_cache(tmp_path: Path, repo: Repo) -> None:
    disk = Watching()
    disk.cache = cache = HubCache.for_repo(disk, tmp_path / "hub", "model", "org/name")
    repo.publish(cache)
    newer = repo.at("2", config__json=b"{2}")
    newer.publish(cache)
    file = newer.file("weights/twin.bin")
    with cache.blob(file.digest).open("r+b") as opened:
        opened.write(b"rot")
    again = disk.cache = HubCache.for_repo(disk, tmp_path / "hub", "model", "org/name")
    again.observe(newer.manifest, newer.manifest.files)
    bad = again.unpublish(file)
    assert bad is not None
    disk.rename(bad, again.area / "tmp" / "bad")
    again.publish_many([(file, b"w" * 5000)])
    again.finish(newer.manifest)
    assert disk.looks > 60


class Journal(Disk):
    """Writes down what is done, by the last part of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def _note(self, what: str, path: AnyPath) -> None:
        self.done.append(f"{what} {Path(path).name[:8]}")

    def fsync(self, fd: int) -> None:
        self.done.append("sync file")
        super().fsync(fd)

    def fsync_path(self, path: AnyPath) -> None:
        self.done.append("sync file")
        super().fsync_path(path)

    def fsync_dir(self, path: AnyPath) -> None:
        self._note("sync", path)
        super().fsync_dir(path)

    def rename(self, src: AnyPath, dst: AnyPath) -> None:
        self._note("rename", dst)
        super().rename(src, dst)

    def make_symlink(self, target: AnyPath, dst: AnyPath) -> None:
        self._note("link", dst)
        super().make_symlink(target, dst)


def test_publishing_keeps_the_order_that_survives_a_power_cut(tmp_path: Path, repo: Repo) -> None:
    disk = Journal()
    cache = HubCache.for_repo(disk, tmp_path / "hub", "model", "org/name")
    cache.begin(repo.manifest)
    assert "rename 11111111" in disk.done  # the listing
    file = repo.file("weights/twin.bin")
    disk.done.clear()
    cache.publish_bytes(file, b"w" * 5000)
    assert ["sync file", f"rename {file.digest.hex[:8]}", "sync blobs", "link twin.bin"] == disk.done
    disk.done.clear()
    cache.finish(repo.manifest)
    ref = disk.done.index("rename main")
    assert {"sync weights", "sync 11111111", "sync snapshot"} <= set(disk.done[:ref])
    assert "sync refs" in disk.done[ref:]


def test_a_copy_by_the_hub_is_synced_before_it_is_linked(tmp_path: Path, repo: Repo) -> None:
    """Its client syncs nothing: 8 s after its exit a power cut leaves empty blobs."""
    disk = Journal()
    cache = HubCache.for_repo(disk, tmp_path / "hub", "model", "org/name")
    cache.begin(repo.manifest)
    file = repo.file("weights/twin.bin")
    blob = cache.blob(file.digest)
    blob.write_bytes(b"w" * 5000)
    seen = cache.observe(repo.manifest, [file])[file.path]
    assert (Copy(where=str(blob), size=5000, proved=False),) == seen.copies
    disk.done.clear()
    assert "linked" == cache.publish_copy(file, Copy(where=str(blob), size=5000, proved=True))
    assert ["sync file", "sync blobs", "link twin.bin"] == disk.done


def test_a_wrong_link_is_seen_and_put_right_without_harm_to_its_blob(cache: HubCache, repo: Repo) -> None:
    """The link may lead to another file's blob, which is good."""
    repo.publish(cache)
    file, other = repo.file("config.json"), repo.file("empty.txt")
    pointer = cache.target / "config.json"
    pointer.unlink()
    pointer.symlink_to(f"../../blobs/{other.digest.hex}")
    seen = cache.observe(repo.manifest, [file])[file.path]
    assert not seen.linked_right
    assert (Copy(where=str(cache.blob(file.digest)), size=2, proved=True),) == seen.copies
    assert cache.unpublish(file) is None
    assert "linked" == cache.publish_copy(file, seen.copies[0])
    assert (b"{}", b"") == (pointer.read_bytes(), cache.blob(other.digest).read_bytes())


def test_absolute_links_to_the_right_blob_are_right(cache: HubCache, repo: Repo) -> None:
    repo.publish(cache)
    file = repo.file("config.json")
    pointer = cache.target / "config.json"
    pointer.unlink()
    pointer.symlink_to(cache.blob(file.digest))
    assert cache.observe(repo.manifest, [file])[file.path].linked_right


def test_a_dangling_link_is_nothing(cache: HubCache, repo: Repo) -> None:
    repo.publish(cache)
    file = repo.file("config.json")
    cache.blob(file.digest).unlink()
    seen = cache.observe(repo.manifest, [file])[file.path]
    assert (None, ()) == (seen.published, seen.copies)
    cache.publish_bytes(file, b"{}")
    assert b"{}" == (cache.target / "config.json").read_bytes()


def test_a_repair_gives_every_snapshot_its_file_back(cache: HubCache, repo: Repo) -> None:
    repo.publish(cache)
    repo.at("2", config__json=b"{2}").publish(cache)
    before = links(cache)
    file = repo.file("weights/twin.bin")
    cache.blob(file.digest).write_bytes(b"rot")
    again = HubCache(Disk(), cache.cache_dir, cache.root.name)
    again.observe(repo.manifest, repo.manifest.files)
    bad = again.unpublish(file)
    assert (cache.blob(file.digest), 4) == (bad, len(before) - len(links(cache)))
    assert [] == scan(cache)
    assert bad is not None
    bad.unlink()
    again.publish_bytes(file, b"w" * 5000)
    assert before == links(cache)
    assert [] == os.listdir(cache.area / "relink")


@pytest.mark.parametrize("when", ["before the blob came", "after the blob came"])
def test_an_interrupted_repair_is_completed_by_the_next_run(cache: HubCache, repo: Repo, when: str) -> None:
    repo.publish(cache)
    newer = repo.at("2", config__json=b"{2}")
    newer.publish(cache)
    before = links(cache)
    file = repo.file("weights/twin.bin")
    cache.blob(file.digest).write_bytes(b"rot")
    again = HubCache(Disk(), cache.cache_dir, cache.root.name)
    again.observe(repo.manifest, repo.manifest.files)
    assert again.unpublish(file) is not None
    cache.blob(file.digest).unlink()
    later = HubCache(Disk(), cache.cache_dir, cache.root.name)
    if when.startswith("after"):  # killed between the blob and its links
        cache.blob(file.digest).write_bytes(b"w" * 5000)
        later.proofs.add(file.digest, cache.blob(file.digest))
        later.begin(newer.manifest)
    else:
        later.begin(newer.manifest)
        assert before != links(cache)
        later.publish_bytes(file, b"w" * 5000)
    assert before == links(cache)


def test_snapshots_that_were_removed_meanwhile_are_not_restored(cache: HubCache, repo: Repo) -> None:
    repo.publish(cache)
    newer = repo.at("2", config__json=b"{2}")
    newer.publish(cache)
    file = repo.file("weights/twin.bin")
    cache.blob(file.digest).write_bytes(b"rot")
    again = HubCache(Disk(), cache.cache_dir, cache.root.name)
    again.observe(newer.manifest, newer.manifest.files)
    assert again.unpublish(file) is not None
    shutil.rmtree(cache.root / "snapshots" / ("1" * 40))
    again.publish_bytes(file, b"w" * 5000)
    assert ["2" * 40] == os.listdir(cache.root / "snapshots")


@pytest.mark.parametrize("hardlinks", [True, False])
def test_without_symlinks_files_are_hardlinked_or_copied(
    cache: HubCache, repo: Repo, monkeypatch: pytest.MonkeyPatch, hardlinks: bool
) -> None:
    from huggingface_hub import constants, snapshot_download

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    if not hardlinks:
        monkeypatch.setattr(os, "link", refused)
    repo.publish(cache)
    path, blob = cache.target / "weights/twin.bin", cache.blob(repo.file("weights/twin.bin").digest)
    assert (False, hardlinks) == (path.is_symlink(), path.samefile(blob))
    assert [] == scan(cache)
    assert str(cache.target) == snapshot_download("org/name", cache_dir=cache.cache_dir, local_files_only=True)
    later = HubCache(Disk(), cache.cache_dir, cache.root.name)
    seen = later.observe(repo.manifest, repo.manifest.files)
    assert all(what.linked_right and what.published is not None for what in seen.values())
    # Rot is taken away under all its names.
    with path.open("r+b") as file:
        file.write(b"rot")
    later.observe(repo.manifest, repo.manifest.files)
    bad = later.unpublish(repo.file("weights/twin.bin"))
    assert (blob if hardlinks else path) == bad
    assert bad is not None
    bad.unlink()
    assert not path.exists()


def test_where_symlinks_are_refused_by_the_system_hardlinks_serve(
    cache: HubCache, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    repo.publish(cache)
    assert {} == links(cache)
    assert repo.contents == {path: (cache.target / path).read_bytes() for path in repo.contents}


@pytest.mark.parametrize("repo_id", ["../evil", "a/b/c", "", "a--b/c", "a/..", ".\\x"])
def test_a_hostile_repo_name_is_refused(disk: Disk, tmp_path: Path, repo_id: str) -> None:
    with pytest.raises(UntrustedMetadataError):
        HubCache.for_repo(disk, tmp_path, "model", repo_id)


def test_names_are_the_hubs(disk: Disk, tmp_path: Path) -> None:
    from huggingface_hub.file_download import repo_folder_name

    for kind, repo_id in (("model", "gpt2"), ("dataset", "org/data"), ("space", "a.b/c-d_e")):
        expected = tmp_path / repo_folder_name(repo_id=repo_id, repo_type=kind)
        assert expected == HubCache.for_repo(disk, tmp_path, kind, repo_id).root  # type: ignore[arg-type]


# -- the shared blob store: two hops, one payload for all repos


def share(cache: HubCache, repo: Repo, other: str) -> Path:
    """Have the hub's own code put a payload into its store, from another repo; return the payload."""
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

    blob = cache.cache_dir / other / "blobs" / repo.file("weights/twin.bin").digest.hex
    blob.parent.mkdir(parents=True)
    (cache.cache_dir / other / "snapshots").mkdir()
    blob.write_bytes(b"w" * 5000)
    assert publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=XET, cache_dir=cache.cache_dir, expected_size=5000
    )
    return cache.cache_dir / "blobs" / XET[:2] / XET


@pytest.fixture
def xet_repo(repo: Repo) -> Repo:
    from dataclasses import replace

    def with_hash(path: str) -> str | None:
        return XET if path.endswith(".bin") else None

    files = tuple(replace(file, xet_hash=with_hash(file.path)) for file in repo.manifest.files)
    return replace(repo, manifest=replace(repo.manifest, files=files))


def test_a_shared_payload_is_found_and_linked_as_the_hub_does(cache: HubCache, xet_repo: Repo) -> None:
    payload = share(cache, xet_repo, "models--other--repo")
    cache.begin(xet_repo.manifest)
    file = xet_repo.file("weights/twin.bin")
    (copy,) = cache.observe(xet_repo.manifest, [file])[file.path].copies
    assert Copy(where=str(payload), size=5000, proved=False) == copy
    cache.proofs.add(file.digest, payload)
    assert "linked" == cache.publish_copy(file, copy)
    assert f"../../blobs/{XET[:2]}/{XET}" == os.readlink(cache.blob(file.digest))
    assert f"{cache.root.name}/blobs/{file.digest.hex}" in payload.with_name(f"{XET}.refs").read_text()
    seen = cache.observe(xet_repo.manifest, [file])[file.path]
    assert (Copy(where=str(payload), size=5000, proved=True), True) == (seen.published, seen.linked_right)
    assert [] == scan(cache)


def test_a_bad_shared_payload_is_left_to_its_other_repos(cache: HubCache, xet_repo: Repo) -> None:
    """Moving it away would break every repo that links to it."""
    payload = share(cache, xet_repo, "models--other--repo")
    cache.begin(xet_repo.manifest)
    file = xet_repo.file("weights/twin.bin")
    (copy,) = cache.observe(xet_repo.manifest, [file])[file.path].copies
    cache.publish_copy(file, copy)
    assert cache.unpublish(file) is None
    assert payload.exists()
    assert not os.path.lexists(cache.blob(file.digest))
    cache.publish_bytes(file, b"w" * 5000)
    assert not cache.blob(file.digest).is_symlink()
    assert b"w" * 5000 == (cache.target / file.path).read_bytes()
    assert [] == scan(cache)


def test_a_blob_that_leads_into_the_store_is_replaced_and_never_written_through(
    cache: HubCache, xet_repo: Repo
) -> None:
    payload = share(cache, xet_repo, "models--other--repo")
    cache.begin(xet_repo.manifest)
    file = xet_repo.file("weights/twin.bin")
    cache.publish_copy(file, Copy(where=str(payload), size=5000, proved=True))
    inode = payload.stat().st_ino
    cache.publish_bytes(file, b"w" * 5000)
    assert (inode, False) == (payload.stat().st_ino, cache.blob(file.digest).is_symlink())


def test_nothing_of_ours_warns(cache: HubCache, repo: Repo) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repo.publish(cache)
    assert Digest(algo="git-sha1", hex="e69de29bb2d1d6434b8b29ae775ad8c2e48c5391") == repo.file("empty.txt").digest
