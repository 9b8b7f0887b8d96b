"""Lock files: one text for one state, and nothing believed that a repo could not hold."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.core.pins import Change, Pin, differences, hold_to, parse, render
from fetchverify.core.pointer import pointer_blob_id
from fetchverify.errors import UntrustedMetadataError, UsageError

REF = RepoRef(kind="model", repo_id="org/name", revision="main")
COMMIT = Commit("1" * 40)


def lfs(path: str, size: int = 5, digit: str = "a") -> RemoteFile:
    hex_ = digit * 64
    blob_id = pointer_blob_id(hex_, size)
    return RemoteFile(path=RepoPath(path), size=size, digest=Digest(algo="sha256", hex=hex_), blob_id=blob_id)


def plain(path: str, size: int = 5, digit: str = "b") -> RemoteFile:
    digest = Digest(algo="git-sha1", hex=digit * 40)
    return RemoteFile(path=RepoPath(path), size=size, digest=digest, blob_id=digit * 40)


PIN = Pin(ref=REF, commit=COMMIT, files=(plain("config.json"), lfs("w.bin")))
TEXT = """\
# Written by `fetchverify lock`; `fetchverify lock --update` moves it, `fetchverify get --locked` fetches exactly this.
version = 1

[[repo]]
id = "org/name"
type = "model"
revision = "main"
commit = "1111111111111111111111111111111111111111"
files = [
  { path = "config.json", size = 5, git-sha1 = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" },
  { path = "w.bin", size = 5, sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" },
]
"""


def test_a_lock_file_is_one_file_a_line_in_one_order() -> None:
    assert TEXT == render([PIN])
    other = Pin(ref=RepoRef(kind="dataset", repo_id="org/name", revision="v1"), commit=COMMIT, files=())
    assert render([PIN, other]) == render([other, PIN])
    assert (other, PIN) == parse(render([PIN, other]))


names = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\\/"), min_size=1, max_size=30
)


@given(st.sets(names.filter(lambda name: name not in {".", ".."} and not name.startswith("."))))
def test_whatever_a_repo_holds_comes_back(paths: set[str]) -> None:
    files = tuple(lfs(f"d/{path}") for path in sorted(paths))
    pin = Pin(ref=REF, commit=COMMIT, files=tuple(sorted(files, key=lambda file: file.path)))
    text = render([pin])
    tomllib.loads(text)
    assert (pin,) == parse(text)


@pytest.mark.parametrize(
    ("was", "is_"),
    [
        ("version = 1", "version = 2"),
        ("version = 1", ""),
        ("[[repo]]", "[repo]"),
        ('type = "model"', 'type = "bucket"'),
        ('id = "org/name"', 'id = "../../etc"'),
        ('id = "org/name"', "id = 7"),
        ('commit = "1', 'commit = "x'),
        ('revision = "main"', 'revision = "a b"'),
        ("size = 5", "size = -5"),
        ("size = 5", "size = 5.0"),
        ("size = 5", "size = true"),
        ('path = "w.bin"', 'path = "../w.bin"'),
        ('path = "w.bin"', 'path = "/w.bin"'),
        ('path = "w.bin"', 'path = "config.json"'),
        ('path = "w.bin"', 'path = ".git/config"'),
        ("sha256", "sha512"),
        ("aaaa", "aaa"),
        ("]\n", ""),
    ],
)
def test_a_lock_file_that_was_tampered_with_is_refused(was: str, is_: str) -> None:
    changed = TEXT.replace(was, is_, 1) if was != "]\n" else TEXT.removesuffix(was)
    assert changed != TEXT
    with pytest.raises((UsageError, UntrustedMetadataError)):
        parse(changed)


def test_a_repo_is_pinned_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse(TEXT + TEXT[TEXT.index("[[repo]]") :])


def test_differences_are_by_path() -> None:
    before = [plain("a"), lfs("b"), lfs("c"), plain("e", 7)]
    after = [plain("a"), lfs("b", 6), lfs("c", digit="d"), plain("d")]
    expected = (
        Change(path=RepoPath("b"), before=5, after=6),
        Change(path=RepoPath("c"), before=5, after=5),
        Change(path=RepoPath("d"), before=None, after=5),
        Change(path=RepoPath("e"), before=7, after=None),
    )
    assert expected == differences(before, after)


def test_the_hub_is_held_to_a_pin() -> None:
    """A commit never changes: whoever says otherwise is not to be trusted."""
    told = Manifest(ref=RepoRef(kind="model", repo_id="org/name", revision=COMMIT), commit=COMMIT, files=PIN.files)
    assert Manifest(ref=REF, commit=COMMIT, files=PIN.files) == hold_to(PIN, told)
    for files in ((), (*PIN.files, lfs("z")), (plain("config.json", digit="c"), lfs("w.bin"))):
        with pytest.raises(UntrustedMetadataError, match="differ"):
            hold_to(PIN, Manifest(ref=told.ref, commit=COMMIT, files=files))
    with pytest.raises(UntrustedMetadataError, match="answers with commit"):
        hold_to(PIN, Manifest(ref=told.ref, commit=Commit("2" * 40), files=PIN.files))
