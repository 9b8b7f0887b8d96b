"""Whatever a server lists: a path is safe or refused, and a listing ends in a manifest or in one typed error."""

from __future__ import annotations

import json
import ntpath
import posixpath
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.paths import MOST_SIZE, case_collisions, check_files, check_path, obstacle
from fetchverify.core.tree import file_from_headers, parse_siblings, parse_tree_page
from fetchverify.errors import UntrustedMetadataError

T = TypeVar("T")

COMPONENTS = st.one_of(
    st.sampled_from(["", ".", "..", "...", ".git", ".GIT", ".g\u200cit", ".fetchverify", "CON", "nul.txt", "a ", "a."]),
    st.sampled_from(
        ["C:", "C:\\", "\\", "a\\b", "~", "-rf", "\u202e", "\u2028", "é", "e\u0301", "a", "b", "A", "%2e%2e"]
    ),
    st.text(max_size=6),
    st.text(st.characters(codec=None), max_size=3),
    st.integers(250, 260).map("x".__mul__),
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HEX40, HEX64 = (
    st.text("0123456789abcdef", min_size=40, max_size=40),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return good | good | good | JSON


SIZES = st.integers(0, 1 << 51)
ENTRIES = st.fixed_dictionaries(
    {
        "type": mostly(st.sampled_from(["file", "directory"])),
        "path": mostly(PATHS),
        "oid": mostly(HEX40),
        "size": mostly(SIZES),
    },
    optional={
        "lfs": mostly(st.fixed_dictionaries({"oid": mostly(HEX64), "size": mostly(SIZES)})),
        "xetHash": mostly(HEX64),
    },
)


SIBLINGS = st.fixed_dictionaries(
    {"rfilename": mostly(PATHS)},
    optional={
        "size": mostly(SIZES),
        "blobId": mostly(HEX40),
        "lfs": mostly(st.fixed_dictionaries({"sha256": mostly(HEX64), "size": mostly(SIZES)})),
    },
)


def attempt(call: Callable[[], T]) -> T | None:
    """Return what was accepted; a refusal is one printable line."""
    try:
        return call()
    except UntrustedMetadataError as error:
        message = error.message
    assert message.isprintable()
    assert len(message) < 400
    return None


@given(PATHS)
def test_an_accepted_path_stays_below_any_root(path: str) -> None:
    """On POSIX as it is; on Windows wherever `obstacle` says nothing."""
    accepted = attempt(lambda: check_path(path))
    if accepted is None:
        return
    assert accepted == path
    assert posixpath.normpath(f"/top/{path}") == f"/top/{path}"
    assert PurePosixPath("/top", path).is_relative_to("/top")
    assert len(PurePosixPath(path).parts) == path.count("/") + 1
    assert path.encode().decode() == path
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in path)
    assert path.partition("/")[0].casefold() not in (".git", ".fetchverify")
    if obstacle(path, windows=True) is None:
        assert ntpath.normpath(f"C:\\top\\{path}").replace("\\", "/") == f"C:/top/{path}"
        assert ntpath.splitdrive(path)[0] == ""
        assert all(part == part.rstrip(". ") for part in path.split("/"))


@given(st.lists(PATHS, max_size=8))
def test_checked_files_can_lie_in_one_folder(paths: list[str]) -> None:
    """Exactly those listings pass that a disk could hold."""
    digest = Digest(algo="git-sha1", hex="0" * 40)
    files = [RemoteFile(path=RepoPath(path), size=0, digest=digest, blob_id="0" * 40) for path in paths]
    clash = len(set(paths)) < len(paths) or any(
        other != path and other.startswith(f"{path}/") for path in paths for other in paths
    )
    try:
        check_files(files)
        refused = False
    except UntrustedMetadataError:
        refused = True
    assert clash == refused
    if not refused:
        for group in case_collisions(files):
            assert len(group) > 1
            assert set(group) <= set(paths)


@given(JSON | st.lists(mostly(ENTRIES), max_size=4))
def test_a_page_ends_in_files_or_in_one_typed_error(page: Any) -> None:
    """Strict to the field: what comes out is whole, and JSON can say anything."""
    for file in attempt(lambda: parse_tree_page(json.loads(json.dumps(page)))) or ():
        assert_whole(file)


@given(JSON | st.fixed_dictionaries({"siblings": mostly(st.lists(mostly(SIBLINGS), max_size=3))}))
def test_siblings_end_in_files_or_in_one_typed_error(answer: Any) -> None:
    """The way back for mirrors is as strict."""
    for each in attempt(lambda: list(parse_siblings(answer))) or ():
        if isinstance(each, RemoteFile):
            assert_whole(each)
        else:
            assert check_path(each) == each


@given(
    st.dictionaries(
        st.sampled_from(["X-Linked-Etag", "ETag", "X-Linked-Size", "Content-Length"]),
        mostly(HEX40.map(lambda text: f'"{text}"') | HEX64 | SIZES.map(str)).map(str),
    ),
    st.booleans(),
)
def test_headers_end_in_a_file_or_in_one_typed_error(headers: dict[str, str], redirected: bool) -> None:
    """So is the last way."""
    file = attempt(lambda: file_from_headers(RepoPath("a.bin"), headers, redirected=redirected))
    if file is None:
        return
    assert_whole(file)
    if redirected:
        assert {"X-Linked-Etag", "X-Linked-Size"} <= headers.keys()


def assert_whole(file: RemoteFile) -> None:
    assert check_path(file.path) == file.path
    assert type(file.size) is int
    assert 0 <= file.size <= MOST_SIZE
    assert len(file.digest.hex) == {"sha256": 64, "git-sha1": 40}[file.digest.algo]
    assert set(file.digest.hex + file.blob_id) <= set("0123456789abcdef")
    assert len(file.blob_id) == 40
    assert file.xet_hash is None or len(file.xet_hash) == 64
