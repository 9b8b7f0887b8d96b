"""What is written past the page cache is what lies there; what cannot be is left to the usual way, and said so."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fetchverify.errors import DiskError
from fetchverify.store import direct
from fetchverify.store.direct import PAGE, DirectWriter
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import AnyPath, disk_error

MiB = 1 << 20


class Odd(Disk):
    """Counts how often a file is opened past the cache, and does something before each write."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.opened = 0
        self.before = before

    def open_rw(self, path: AnyPath, *, append: bool = False, direct: bool = False) -> int:
        self.opened += direct
        return super().open_rw(path, append=append)  # not direct: what is tried here holds on any file system

    def write_at(self, fd: int, data: memoryview | bytes, offset: int) -> None:
        self.before()
        super().write_at(fd, data, offset)


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        error = OSError(code, os.strerror(code))
        raise disk_error(error, "write to", "data") from error

    return fail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(4 * MiB))
    return path


@pytest.fixture
def page() -> memoryview:
    buffer = memoryview(mmap.mmap(-1, MiB))
    buffer[:] = bytes(range(256)) * (MiB // 256)
    return buffer


def test_whole_pages_are_written_and_others_are_not(path: Path, page: memoryview) -> None:
    writer = DirectWriter(Disk(), path)
    took = [
        writer.write(page[:length], offset)
        for length, offset in ((2 * PAGE, PAGE), (PAGE, 5), (PAGE + 1, 8 * PAGE), (7, 0))
    ]
    writer.close()
    assert took in ([True, False, False, False], [False] * 4), "the second: no such thing on this file system"
    data = path.read_bytes()
    expected = bytearray(4 * MiB)
    if took[0]:
        expected[PAGE : 3 * PAGE] = page[: 2 * PAGE]
    assert expected == data


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_system_that_refuses_is_not_asked_again(path: Path, page: memoryview, code: int) -> None:
    writer = DirectWriter(disk := Odd(failing(code)), path)
    assert not writer.write(page, 0)
    disk.before = lambda: None
    assert not writer.write(page, 0)
    writer.close()
    assert 1 == disk.opened


def test_a_full_disk_is_not_taken_for_a_refusal(path: Path, page: memoryview) -> None:
    writer = DirectWriter(Odd(failing(errno.ENOSPC)), path)
    with pytest.raises(DiskError, match="ENOSPC"):
        writer.write(page, 0)
    writer.close()


def test_a_disk_that_does_not_keep_up_gets_a_cache(
    path: Path, page: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writers would wait; the page cache takes what it gives back later."""
    monkeypatch.setattr(direct, "_TRIED", 2 * MiB)
    slow = DirectWriter(Odd(lambda: time.sleep(0.02)), path)
    assert [True, True, False] == [slow.write(page, 0) for _ in range(3)]
    slow.close()
    monkeypatch.setattr(direct, "_LEAST_RATE", 1.0)
    quick = DirectWriter(Odd(), path)
    assert [True] * 5 == [quick.write(page, 0) for _ in range(5)]
    quick.close()


def test_a_closed_writer_opens_nothing(path: Path, page: memoryview) -> None:
    """Before a file is published every descriptor that can write to it is closed, for good."""
    writer = DirectWriter(disk := Odd(), path)
    writer.close()
    assert not writer.write(page, 0)
    assert 0 == disk.opened
