"""Files that were named by hand: their text, or why there is none; a disk that fails is not the caller's mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fetchverify.errors import DiskError, UsageError
from fetchverify.store.given import read_given
from tests.mounts import cut_power, mounted


def test_what_it_says_is_returned_whole(tmp_path: Path) -> None:
    path = tmp_path / "pins"
    path.write_text("org/m\nörg/ü\n", encoding="utf-8")
    assert "org/m\nörg/ü\n" == read_given(path)
    assert "org/m\nörg/ü\n" == read_given(path, most=len(path.read_bytes()))


@pytest.mark.parametrize(
    ("data", "said"),
    [(None, "No such file or directory"), (b"\xff\n", "it is not text"), (b"12345", "it is longer than 4 bytes")],
)
def test_what_cannot_be_read_is_said_with_its_name(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "pins"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=re.escape(f"cannot read pins from `{path}`: {said}")) as caught:
        read_given(path, "pins from ", most=4, hint="write one")
    assert "write one" == caught.value.hint


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_disk_that_fails_is_named(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind, "320M") as disk:
        path = disk / "pins"
        path.write_text("org/m\n")
        cut_power(disk)
        with pytest.raises(DiskError, match=re.escape(f"cannot read pins from `{path}`: Input/output error (EIO)")):
            read_given(path, "pins from ")
