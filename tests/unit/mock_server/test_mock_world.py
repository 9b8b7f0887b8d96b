import hashlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mock_server import Flipped, GiB, InMemory, KiB, MiB, OnDisk, RepoFile, Seeded, World, many_small_files
from mock_server.content import DECLARED_ABOVE, Resized
from mock_server.world import is_lfs


@given(st.integers(0, 3 * MiB), st.data())
def test_seeded_bytes_do_not_depend_on_how_they_are_read(size: int, data: st.DataObject) -> None:
    content = Seeded(size, "s")
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    middle = data.draw(st.integers(start, stop))
    whole = content.read(start, stop)
    assert stop - start == len(whole)
    assert whole == content.read(start, middle) + content.read(middle, stop)


def test_no_two_blocks_of_a_seeded_file_are_equal() -> None:
    """A block written to the wrong place must show."""
    content = Seeded(8 * MiB, "s")
    blocks = {content.read(at, at + 64 * KiB) for at in range(0, content.size, 64 * KiB)}
    assert len(blocks) == 128


def test_seeds_and_offsets_decide_the_bytes_for_ever() -> None:
    """Scenarios and benchmarks name files by seed."""
    assert Seeded(3 * MiB + 5, "s").sha256()[:16] == "a4f58faa53077875"
    assert Seeded(100, "a").read(0, 100) != Seeded(100, "b").read(0, 100)


def test_digests_are_those_of_the_bytes() -> None:
    content = Seeded(2 * MiB + 3, "s")
    data = content.read(0, content.size)
    assert hashlib.sha256(data).hexdigest() == content.sha256()
    assert hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == content.git_sha1()
    assert InMemory(b"").git_sha1() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_a_file_of_half_a_terabyte_costs_nothing() -> None:
    content = Seeded(500 * GiB, "huge")
    assert content.size > DECLARED_ABOVE
    begun = time.process_time()
    assert len(content.sha256()) == 64
    assert len(content.read(499 * GiB, 499 * GiB + 10)) == 10
    assert time.process_time() - begun < 0.5


def test_a_flip_changes_exactly_one_byte() -> None:
    plain = Seeded(100, "s").read(0, 100)
    flipped = Flipped(Seeded(100, "s"), 42)
    assert [index for index in range(100) if flipped.read(0, 100)[index] != plain[index]] == [42]
    assert plain[43:] == flipped.read(43, 100)


def test_a_resized_content_is_cut_or_padded() -> None:
    assert Resized(InMemory(b"abc"), 2).read(0, 2) == b"ab"
    assert Resized(InMemory(b"abc"), 5).read(1, 5) == b"bc\0\0"
    assert Resized(InMemory(b"abc"), 5).read(4, 5) == b"\0"


def test_a_file_on_disk_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    content = OnDisk(tmp_path / "f")
    assert (10, b"345", tmp_path / "f") == (content.size, content.read(3, 6), content.path)
    assert hashlib.sha256(b"0123456789").hexdigest() == content.sha256()


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [("a/w.safetensors", 1, True), ("tokenizer.model", 1, True), ("README.md", 1, False), ("big.json", 2 * MiB, True)],
)
def test_lfs_goes_by_name_and_size(path: str, size: int, expected: bool) -> None:
    assert expected == is_lfs(path, size)


def test_commits_are_named_by_what_they_hold() -> None:
    first, second = World(), World()
    for world in (first, second):
        world.add("acme/m", {"a": b"1"})
    assert first.repo("acme/m").head().id == second.repo("acme/m").head().id
    assert len(first.repo("acme/m").commit({"a": b"2"})) == 40
    assert first.repo("acme/m").head().id != second.repo("acme/m").head().id


def test_a_branch_moves_and_old_commits_stay() -> None:
    repo = World().add("acme/m", {"a": b"1", "b": b"2"})
    old = repo.head().id
    repo.tag("v1")
    new = repo.commit({"a": None, "c": b"3"})
    assert (list(repo.head().files), list(repo.head("v1").files)) == (["b", "c"], ["a", "b"])
    assert (new, old) == (repo.head(new[:7]).id, repo.head(old).id)
    repo.commit({"d": b"4"}, branch="next")
    assert list(repo.head("refs/heads/next").files) == ["b", "c", "d"]


def test_a_force_push_leaves_nothing_of_the_old_head() -> None:
    repo = World().add("acme/m", {"a": b"1"})
    old = repo.head().id
    repo.force_push({"z": b"9"})
    assert (repo.at(old), list(repo.head().files)) == (None, ["z"])


def test_listings_hold_folders_and_files() -> None:
    commit = World().add("acme/m", {"a/b/c.txt": b"1", "a/d.txt": b"2", "e.txt": b"3"}).head()
    paths = {
        (path, recursive): [entry.path for entry in commit.entries(path, recursive=recursive) or []]
        for path in ("", "a")
        for recursive in (False, True)
    }
    assert paths == {
        ("", False): ["a", "e.txt"],
        ("", True): ["a", "a/b", "a/b/c.txt", "a/d.txt", "e.txt"],
        ("a", False): ["a/b", "a/d.txt"],
        ("a", True): ["a/b", "a/b/c.txt", "a/d.txt"],
    }
    assert None is commit.entries("nope")


def test_a_hundred_thousand_files_are_cheap() -> None:
    begun = time.process_time()
    world = World()
    repo = world.add("acme/many", many_small_files(100_000))
    assert len(repo.head().entries(recursive=True) or []) == 100_000 + 100
    assert time.process_time() - begun < 5
    file = repo.file("part-0000/file-00000.txt")
    assert isinstance(file, RepoFile)
    assert len(file.git_oid()) == 40


def test_a_root_folder_is_a_world(tmp_path: Path) -> None:
    for path in ("models/acme/m/config.json", "models/gpt2/config.json", "datasets/acme/d/x/y.parquet"):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(path))
    world = World.load_root(tmp_path)
    assert [(repo.kind, repo.repo_id) for repo in world.repos()] == [
        ("dataset", "acme/d"),
        ("model", "acme/m"),
        ("model", "gpt2"),
    ]
    assert world.repo("acme/d", "dataset").file("x/y.parquet").lfs
