"""git's index is replaced whole, under git's lock, and no dead run keeps that lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from fetchverify.errors import LockedError
from fetchverify.store import indexlock
from fetchverify.store.disk import Disk
from fetchverify.store.indexlock import release_dead, replace_index


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index"
    path.write_bytes(b"old")
    return path


def replace(index: Path, data: bytes = b"new") -> bool:
    disk = Disk()
    return replace_index(disk, index, index.stat(), lambda fd: disk.write_at(fd, data, 0))


def left_by_a_killed_run(index: Path) -> tuple[Path, Path]:
    name, lock = index.with_name(".fv-1-aa"), index.with_name("index.lock")
    name.write_bytes(b"new")
    os.link(name, lock)
    return name, lock


def test_the_index_is_replaced_and_nothing_else_is_left(index: Path) -> None:
    index.chmod(0o640)
    assert replace(index)
    assert (["index"], b"new", 0o640) == (os.listdir(index.parent), index.read_bytes(), index.stat().st_mode & 0o777)


def test_an_index_that_git_wrote_meanwhile_is_left_as_it_is(index: Path) -> None:
    disk, before = Disk(), index.stat()

    def write(fd: int) -> None:
        index.with_name("other").write_bytes(b"git's")
        index.with_name("other").rename(index)

    assert not replace_index(disk, index, before, write)
    assert (["index"], b"git's") == (os.listdir(index.parent), index.read_bytes())


def test_the_lock_of_a_killed_run_is_released(index: Path) -> None:
    left_by_a_killed_run(index)
    release_dead(Disk(), index)
    assert ["index"] == os.listdir(index.parent)


def test_the_lock_of_a_living_run_and_gits_own_stay(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexlock, "_LOCK_S", 0.1)
    name, lock = left_by_a_killed_run(index)
    with name.open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        release_dead(Disk(), index)
        assert name.exists()
        with pytest.raises(LockedError, match="another git command"):
            replace(index)
    lock.unlink()
    lock.write_bytes(b"git's")
    release_dead(Disk(), index)
    assert (False, b"git's", b"old") == (name.exists(), lock.read_bytes(), index.read_bytes())


def test_where_there_are_no_links_the_lock_is_taken_all_the_same(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    assert replace(index)
    assert (["index"], b"new") == (os.listdir(index.parent), index.read_bytes())
