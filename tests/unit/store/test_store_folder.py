"""A plain folder: real files of its own, trusted by the hub's client, safe from what lies in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from fetchverify.core.plan import Copy, plan_fetch
from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache

if TYPE_CHECKING:
    from tests.unit.store.conftest import Repo

Making: TypeAlias = "Callable[[dict[str, bytes]], Repo]"


def test_the_hubs_client_trusts_our_files(folder: Folder, repo: Repo) -> None:
    from huggingface_hub._local_folder import read_download_metadata

    repo.publish(folder)
    for file in repo.manifest.files:
        metadata = read_download_metadata(folder.target, file.path)
        assert metadata is not None
        assert ("1" * 40, file.digest.hex) == (metadata.commit_hash, metadata.etag)
    hub = folder.target / ".cache" / "huggingface"
    assert "*" == (hub / ".gitignore").read_text() == (folder.area / ".gitignore").read_text()
    assert (hub / "CACHEDIR.TAG").read_bytes().startswith(b"Signature")


def test_the_hub_writes_its_book_keeping_the_same(folder: Folder, repo: Repo, tmp_path: Path) -> None:
    from huggingface_hub._local_folder import write_download_metadata

    repo.publish(folder)
    write_download_metadata(tmp_path / "theirs", "config.json", "1" * 40, repo.file("config.json").digest.hex)
    for name in ("CACHEDIR.TAG", ".gitignore"):
        theirs, ours = (d / ".cache/huggingface" / name for d in (tmp_path / "theirs", folder.target))
        assert theirs.read_bytes() == ours.read_bytes()
    lines = [
        (d / ".cache/huggingface/download/config.json.metadata").read_text().splitlines()
        for d in (tmp_path / "theirs", folder.target)
    ]
    assert lines[0][:2] == lines[1][:2]
    assert abs(float(lines[0][2]) - float(lines[1][2])) < 60


def test_metadata_is_trusted_even_where_the_files_clock_is_ahead(folder: Folder, repo: Repo) -> None:
    from huggingface_hub._local_folder import read_download_metadata

    folder.begin(repo.manifest)
    staged = folder.area / "tmp" / "x"
    staged.write_bytes(b"{}")
    os.utime(staged, (time.time() + 3600,) * 2)
    folder.publish_data([repo.file("config.json")], staged)
    assert read_download_metadata(folder.target, "config.json") is not None


def test_metadata_never_speaks_of_other_bytes(tmp_path: Path, repo: Repo) -> None:
    """It goes before the new file comes: a crash between the two costs a hash, not the truth."""
    from huggingface_hub._local_folder import read_download_metadata

    class Crashing(Disk):
        victim = ""

        def rename(self, src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
            super().rename(src, dst)
            if Path(dst).name == self.victim:
                raise KeyboardInterrupt

    disk = Crashing()
    folder = Folder(disk, tmp_path / "dir")
    repo.publish(folder)
    newer = repo.at("2", config__json=b"{2}")
    folder.begin(newer.manifest)
    disk.victim = "config.json"
    with pytest.raises(KeyboardInterrupt):
        folder.publish_bytes(newer.file("config.json"), b"{2}")
    assert b"{2}" == (folder.target / "config.json").read_bytes()
    assert read_download_metadata(folder.target, "config.json") is None


@pytest.mark.parametrize("by_whom", ["us", "the hub", "the user"])
def test_a_file_of_an_earlier_commit_is_not_bad(folder: Folder, repo: Repo, by_whom: str) -> None:
    """An update must not fill quarantine with good old versions; what nobody can account for is kept there."""
    repo.publish(folder)
    path = folder.target / "config.json"
    match by_whom:
        case "the hub":  # our ledger does not know it
            (folder.area / "proofs").unlink()
            folder = Folder(Disk(), folder.target)
        case "the user":
            path.write_bytes(b"edited")
            os.utime(path, (time.time() + 10,) * 2)
    newer = repo.at("2", config__json=b"{2}")
    folder.begin(newer.manifest)
    bad = folder.unpublish(newer.file("config.json"))
    assert (path if by_whom == "the user" else None) == bad
    folder.publish_bytes(newer.file("config.json"), b"{2}")
    assert b"{2}" == path.read_bytes()


def test_twins_are_files_of_their_own(folder: Folder, repo: Repo) -> None:
    repo.publish(folder)
    one, other = folder.target / "weights/twin.bin", folder.target / "weights/deep/model.bin"
    assert not one.samefile(other)
    one.write_bytes(b"edited")
    assert b"w" * 5000 == other.read_bytes()


def test_the_cache_is_a_source_and_is_never_shared_with_dir(folder: Folder, cache: HubCache, repo: Repo) -> None:
    repo.publish(cache)
    seen = folder.observe(repo.manifest, repo.manifest.files)
    plan = plan_fetch(repo.manifest.files, seen, copies_cost_space=True)
    assert ((), True) == (plan.fetches, all(link.copies[0].proved for link in plan.links))
    folder.begin(repo.manifest)
    for link in plan.links:
        assert folder.publish_copy(link.file, link.copies[0]) in {"reflink", "copy"}
    (folder.target / "config.json").write_bytes(b"edited")
    assert b"{}" == (cache.target / "config.json").read_bytes()


def test_a_file_that_was_renamed_upstream_is_found_under_its_old_name(folder: Folder, repo: Repo, make: Making) -> None:
    repo.publish(folder)
    renamed = make({"moved/to/here.bin": b"w" * 5000}).at("2")
    file = renamed.file("moved/to/here.bin")
    seen = folder.observe(renamed.manifest, [file])[file.path]
    expected = {str(folder.target / path) for path in ("weights/twin.bin", "weights/deep/model.bin")}
    assert (expected, {True}) == ({copy.where for copy in seen.copies}, {copy.proved for copy in seen.copies})


def test_a_twin_in_the_same_commit_is_a_source(folder: Folder, repo: Repo) -> None:
    repo.publish(folder)
    (folder.target / "weights/twin.bin").unlink()
    file = repo.file("weights/twin.bin")
    (copy,) = folder.observe(repo.manifest, [file])[file.path].copies
    assert Copy(where=str(folder.target / "weights/deep/model.bin"), size=5000, proved=True) == copy


def test_a_link_of_the_hubs_old_ways_becomes_a_file(folder: Folder, repo: Repo, tmp_path: Path) -> None:
    folder.begin(repo.manifest)
    (tmp_path / "blob").write_bytes(b"{}")
    (folder.target / "config.json").symlink_to(tmp_path / "blob")
    file = repo.file("config.json")
    seen = folder.observe(repo.manifest, [file])[file.path]
    assert (False, str(tmp_path / "blob")) == (seen.linked_right, seen.copies[0].where)
    folder.publish_copy(file, seen.copies[0])
    assert (False, b"{}") == ((folder.target / "config.json").is_symlink(), (tmp_path / "blob").read_bytes())


def test_a_link_to_bad_bytes_is_removed_and_they_stay_where_they_are(
    folder: Folder, repo: Repo, tmp_path: Path
) -> None:
    folder.begin(repo.manifest)
    (tmp_path / "blob").write_bytes(b"bad")
    (folder.target / "config.json").symlink_to(tmp_path / "blob")
    assert folder.unpublish(repo.file("config.json")) is None
    assert (False, True) == (os.path.lexists(folder.target / "config.json"), (tmp_path / "blob").exists())


@pytest.mark.parametrize(
    "path", [".fetchverify/proofs", ".FetchVerify/x", ".cache/huggingface/download/x.metadata", ".cache/huggingface"]
)
def test_a_repo_cannot_write_our_book_keeping(folder: Folder, make: Making, path: str) -> None:
    """A ledger that comes with the repo would prove anything."""
    repo = make({path: b"x", ".cache/other": b"x"})
    folder.begin(repo.manifest)
    file = repo.file(path)
    obstacles = {name: seen.obstacle for name, seen in folder.observe(repo.manifest, repo.manifest.files).items()}
    assert {path: f"`{path}` lies where this folder's own book-keeping is", ".cache/other": None} == obstacles
    with pytest.raises(DiskError, match="book-keeping"):
        folder.publish_bytes(file, b"x")
    folder.publish_bytes(repo.file(".cache/other"), b"x")


def test_dir_itself_may_be_a_link_of_the_users(disk: Disk, repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "dir").symlink_to("big disk")
    repo.publish(Folder(disk, tmp_path / "dir"))
    assert b"{}" == (tmp_path / "big disk" / "config.json").read_bytes()


@pytest.mark.parametrize("what", [".fetchverify", ".cache", ".cache/huggingface", ".cache/huggingface/download"])
def test_planted_book_keeping_folders_are_refused(folder: Folder, repo: Repo, tmp_path: Path, what: str) -> None:
    (tmp_path / "outside").mkdir()
    (folder.target / what).parent.mkdir(parents=True, exist_ok=True)
    (folder.target / what).symlink_to(tmp_path / "outside")
    with pytest.raises(DiskError, match="a symbolic link where a folder belongs"):
        repo.publish(folder)
    assert [] == os.listdir(tmp_path / "outside")


def test_another_repos_ref_is_not_ours(folder: Folder, repo: Repo, disk: Disk, tmp_path: Path) -> None:
    repo.publish(folder)
    other = Folder(disk, folder.target, cache=HubCache.for_repo(disk, tmp_path / "hub", "dataset", "org/name"))
    assert ("1" * 40, None) == (folder.read_ref("main"), other.read_ref("main"))


def test_the_folder_is_readable_for_the_hub_without_a_network(folder: Folder, cache: HubCache, repo: Repo) -> None:
    from huggingface_hub import get_cached_repo_tree, snapshot_download

    repo.publish(folder)
    found = snapshot_download(
        "org/name", revision="1" * 40, local_dir=folder.target, cache_dir=cache.cache_dir, local_files_only=True
    )
    assert str(folder.target) == found
    listing = get_cached_repo_tree("org/name", revision="1" * 40, local_dir=folder.target)
    assert {file.path: file.size for file in repo.manifest.files} == {file.path: file.size for file in listing}
