"""Which names of a server may become paths."""

from __future__ import annotations

import pytest

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.paths import MOST_SIZE, case_collisions, check_files, check_path, check_size, obstacle, shown
from fetchverify.errors import UntrustedMetadataError


def file(path: str, size: int = 1) -> RemoteFile:
    digest = Digest(algo="git-sha1", hex="0" * 40)
    return RemoteFile(path=RepoPath(path), size=size, digest=digest, blob_id="0" * 40)


@pytest.mark.parametrize(
    "path",
    [
        ".gitattributes",
        ".gitignore",
        ".github/workflows/ci.yml",
        "a/.git/config",  # only the root's would be taken for our own
        "model-00001-of-00002.safetensors",
        "a b/c (1).json",
        "数据/训练.parquet",
        "emoji-👩‍🚀.png",
        "details_harness|arc:challenge|25_2023-07-19T16:58:18.parquet",
        "con.csv",
        "lang/aux/train.txt",
        "a./b ",
        "...",
        "x" * 255,
        "é" * 127,
        "-rf",
        "~/x",
        ".cache/huggingface/download/a.metadata",
    ],
)
def test_names_of_honest_repos_pass(path: str) -> None:
    """A rule that refuses one of these refuses a repo that people use."""
    assert path == check_path(path)


@pytest.mark.parametrize(
    "raw",
    [
        "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a/", "//server/share",
        "C:", "c:/x", "C:x", "a\\b", "..\\x", "a\0b", "a\nb", "\x1b[31m", "a\x7f", "a\x9bm", "a\u2028b",
        "\ud800", "x" * 256, "é" * 128, "/".join(["d" * 200] * 21),
        ".git", ".git/config", ".GIT/hooks/x", ".g\u200cit/config", ".fetchverify/x", ".FetchVerify",
        ".\uff47it/x" if ".\uff47it".casefold() == ".git" else "..",
    ],
)  # fmt: skip
def test_hostile_names_are_refused(raw: str) -> None:
    """Each of these leaves the root, is our own state, or plays tricks on a terminal."""
    with pytest.raises(UntrustedMetadataError) as caught:
        check_path(raw)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("raw", [None, 1, b"a", ["a"], {}])
def test_a_name_is_text(raw: object) -> None:
    """JSON can hold anything where a name should be."""
    with pytest.raises(UntrustedMetadataError):
        check_path(raw)


@pytest.mark.parametrize("size", [-1, True, 1.0, "1", None, MOST_SIZE + 1, 1 << 63, 10**400])
def test_absurd_sizes_are_refused(size: object) -> None:
    """Preallocating what a server merely claims must not be possible."""
    with pytest.raises(UntrustedMetadataError) as caught:
        check_size("a.bin", size)
    assert "a.bin" in caught.value.message
    assert check_size("a.bin", MOST_SIZE) == MOST_SIZE


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b"), ("x/a", "x/a/b/c"), ("a/b", "a/c", "a")])
def test_a_listing_that_contradicts_itself_is_refused(paths: tuple[str, ...]) -> None:
    """Whichever was written first would decide what the folder holds."""
    with pytest.raises(UntrustedMetadataError):
        check_files([file(path) for path in paths])


def test_an_honest_listing_passes() -> None:
    """Files that share a prefix of letters, not of folders, are no contradiction."""
    check_files([file(path) for path in ("a", "a.b", "ab/c", "ab/d", "b/a", "A")])


def test_case_collisions_are_told_in_groups() -> None:
    """On macOS the second file would overwrite the first, verified or not."""
    files = [file(path) for path in ("README.md", "readme.md", "é", "e\u0301", "Dir/a", "dir/b", "dir", "ß", "SS", "z")]
    expected = (("README.md", "readme.md"), ("é", "e\u0301"), ("dir", "Dir/a"), ("ß", "SS"))
    assert sorted(expected) == sorted(case_collisions(files))


def test_folders_that_differ_in_case_merge_without_a_collision() -> None:
    """`Dir/a` and `dir/b` can lie in one folder."""
    assert () == case_collisions([file("Dir/a"), file("dir/b")])


@pytest.mark.parametrize("path", ["CON", "a/nul.txt", "aux .tar.gz", "com1", "LPT9.x", "com¹", "conin$", "a.", "a /b"])
def test_names_that_windows_bends_are_one_files_trouble(path: str) -> None:
    """The listing is not hostile for them: the rest of the repo can be had."""
    assert check_path(path) == path
    assert obstacle(path) is not None


@pytest.mark.parametrize("path", ["12:30", "x|y", "a?", 'say "hi"', "a<b", "*"])
def test_names_that_only_windows_lacks(path: str) -> None:
    """Times and pipes stand in many names of datasets."""
    assert check_path(path) == path
    assert obstacle(path) is None
    assert obstacle(path, windows=True) is not None


@pytest.mark.parametrize("path", ["console", "auxiliary.txt", "com10", "lpt", "a.b", "nul-1"])
def test_what_windows_can_hold(path: str) -> None:
    """Only the very names are devices."""
    assert obstacle(path, windows=True) is None


def test_a_plain_folder_keeps_the_hub_clients_records_to_itself() -> None:
    """A repo's `.metadata` file would vouch for other files of the folder."""
    assert obstacle(".cache/huggingface/download/a.metadata", folder=True) is not None
    assert obstacle(".Cache/HuggingFace", folder=True) is not None
    assert obstacle(".cache/other", folder=True) is None
    assert obstacle(".cache/huggingface/x") is None


def test_strangers_words_are_shown_on_one_short_line() -> None:
    """A name may hold terminal escapes, right-to-left overrides, or a megabyte."""
    assert shown("a\n\x1b\u202e'") == r"a\n\x1b\u202e" + "'"
    assert len(shown("\x00" * 10_000)) == 120
    assert shown(3) == "a int"
