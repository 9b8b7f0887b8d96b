"""Listings are byte for byte the hub's; a hostile one is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fetchverify.core.manifest import RemoteFile, RepoPath
from fetchverify.store.disk import Disk
from fetchverify.store.trees import is_safe_path, read_tree, ref_parts, tree_pieces, write_tree

if TYPE_CHECKING:
    from tests.unit.store.conftest import Repo

XET = "0f" * 32


def with_xet(repo: Repo) -> Repo:
    from dataclasses import replace

    files = tuple(
        replace(file, xet_hash=XET if file.path == "weights/twin.bin" else None) for file in repo.manifest.files
    )
    return replace(repo, manifest=replace(repo.manifest, files=files))


def write(disk: Disk, repo: Repo, folder: Path) -> Path:
    (folder / "staging").mkdir(exist_ok=True)
    write_tree(disk, folder, repo.manifest, staging=folder / "staging")
    return folder / "trees" / f"{repo.manifest.commit}.json"


def test_the_listing_is_the_hubs_own_byte_for_byte(disk: Disk, tmp_path: Path, repo: Repo) -> None:
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    repo = with_xet(repo)

    def entry(file: RemoteFile) -> TreeCacheEntry:
        sha256, size = (file.digest.hex, file.size) if file.is_lfs else (None, None)
        return TreeCacheEntry(
            size=file.size, blob_id=file.blob_id, lfs_sha256=sha256, lfs_size=size, xet_hash=file.xet_hash
        )

    write_tree_cache(str(tmp_path / "hub"), repo.manifest.commit, {f.path: entry(f) for f in repo.manifest.files})
    theirs = (tmp_path / "hub" / "trees" / f"{repo.manifest.commit}.json").read_bytes()
    assert theirs == write(disk, repo, tmp_path).read_bytes()
    assert {file.path: file for file in repo.manifest.files} == {
        file.path: file for file in read_tree(tmp_path / "hub", repo.manifest.commit) or ()
    }


def test_the_listing_of_an_empty_repo_is_the_hubs_own(repo: Repo) -> None:
    from dataclasses import replace

    assert json.dumps({"format_version": 1, "files": {}}, indent=1).encode() == b"".join(
        tree_pieces(replace(repo.manifest, files=()))
    )


def test_a_listing_of_several_pieces_is_the_hubs_own(repo: Repo) -> None:
    """A repo of 100,000 files is written piece by piece: the seams must not show."""
    from dataclasses import replace

    one = repo.manifest.files[0]
    files = tuple(replace(one, path=RepoPath(f'{number:05d} "é"')) for number in reversed(range(4001)))
    pieces = list(tree_pieces(replace(repo.manifest, files=files)))
    assert len(pieces) > 2
    entry: dict[str, Any] = {"size": one.size, "blob_id": one.blob_id}
    if one.is_lfs:
        entry |= {"lfs_sha256": one.digest.hex, "lfs_size": one.size}
    whole = {"format_version": 1, "files": {file.path: entry for file in reversed(files)}}
    assert json.dumps(whole, indent=1).encode() == b"".join(pieces)


def test_one_bad_xet_hash_does_not_spoil_the_listing(repo: Repo) -> None:
    from dataclasses import replace

    files = tuple(replace(file, xet_hash="not a hash") for file in repo.manifest.files)
    assert list(tree_pieces(repo.manifest)) == list(tree_pieces(replace(repo.manifest, files=files)))


def test_an_identical_listing_is_not_written_again(disk: Disk, tmp_path: Path, repo: Repo) -> None:
    before = write(disk, repo, tmp_path).stat().st_ino
    assert before == write(disk, repo, tmp_path).stat().st_ino
    write(disk, repo, tmp_path).write_bytes(b"{}")
    write(disk, repo, tmp_path)
    assert read_tree(tmp_path, repo.manifest.commit) is not None


def _entry(body: dict[str, Any], name: str = "weights/twin.bin") -> dict[str, Any]:
    entry: dict[str, Any] = body["files"][name]
    return entry


@pytest.mark.parametrize(
    "harm",
    [
        lambda body: body.update(format_version=2),
        lambda body: body.pop("files"),
        lambda body: body.update(files=[]),
        lambda body: body["files"].update({"../escape": _entry(body)}),
        lambda body: body["files"].update({"/etc/passwd": _entry(body)}),
        lambda body: body["files"].update({"a//b": _entry(body)}),
        lambda body: body["files"].update({"a\\..\\b": _entry(body)}),
        lambda body: body["files"].update({"C:/x": _entry(body)}),
        lambda body: body["files"].update({"nul\0": _entry(body)}),
        lambda body: body["files"].update({"\ud800": _entry(body)}),
        lambda body: body["files"].update({"": _entry(body)}),
        lambda body: body["files"].update({"config.json/inside": _entry(body)}),
        lambda body: body["files"].update({"x": None}),
        lambda body: _entry(body).update(size=-1),
        lambda body: _entry(body, "config.json").update(size=True),
        lambda body: _entry(body).update(size="5000"),
        lambda body: _entry(body).update(size=1 << 63),
        lambda body: _entry(body).update(lfs_size=1),
        lambda body: _entry(body).update(blob_id="../../x"),
        lambda body: _entry(body).update(blob_id=None),
        lambda body: _entry(body).update(lfs_sha256="AB" * 32),
        lambda body: _entry(body).update(lfs_sha256=7),
        lambda body: _entry(body).pop("size"),
    ],
)
def test_a_listing_with_anything_strange_in_it_is_none(
    disk: Disk, tmp_path: Path, repo: Repo, harm: Callable[[dict[str, Any]], object]
) -> None:
    path = write(disk, repo, tmp_path)
    assert read_tree(tmp_path, repo.manifest.commit) is not None
    body = json.loads(path.read_bytes())
    harm(body)
    path.write_text(json.dumps(body))
    assert read_tree(tmp_path, repo.manifest.commit) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_listing_is_none(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / f"{'1' * 40}.json").write_bytes(raw)
    assert read_tree(tmp_path, "1" * 40) is None


def test_only_commits_name_listings(disk: Disk, tmp_path: Path, repo: Repo) -> None:
    write(disk, repo, tmp_path)
    assert read_tree(tmp_path, f"../trees/{repo.manifest.commit}") is None
    assert read_tree(tmp_path, "main") is None


def test_revisions_stay_below_refs() -> None:
    assert ("refs", "pr", "1") == ref_parts("refs/pr/1")
    assert [None] * 6 == [ref_parts(name) for name in ("", "..", "a/../b", "/a", "a//b", "a\0")]
    assert is_safe_path("..a/b..")
