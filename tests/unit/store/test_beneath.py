"""Nothing but a regular file below the root is ever opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fetchverify.store.beneath import open_beneath, read_beneath


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "file").write_bytes(b"12345")
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "in" / "away").symlink_to(tmp_path / "outside")
    (root / "in" / "near").symlink_to("file")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    return root


def test_a_file_below_the_root_is_opened(root: Path, tmp_path: Path) -> None:
    assert b"12345" == read_beneath(root, ("in", "file"), most=5)
    (tmp_path / "link").symlink_to(root)
    assert b"12345" == read_beneath(tmp_path / "link", ("in", "file"), most=5)  # the root is the operator's


def test_a_file_that_is_too_long_is_not_read(root: Path) -> None:
    assert None is read_beneath(root, ("in", "file"), most=4)


@pytest.mark.parametrize(
    "path",
    ["in/away", "in/near", "up/outside", "in", "fifo", "nothing", "in/file/x", "n" * 300, "\ud800"],
)
def test_what_is_no_file_of_its_own_is_none(path: str, root: Path) -> None:
    """A FIFO that is waited for would hold up a thread for ever."""
    before = len(os.listdir("/proc/self/fd"))
    assert None is open_beneath(root, path.split("/"))
    assert before == len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("parts", [(), ("..", "outside"), ("in/file",), (".", "in", "file"), ("",), ("in", "\0")])
def test_a_name_that_is_none_finds_nothing(parts: tuple[str, ...], root: Path) -> None:
    assert None is open_beneath(root, parts)
