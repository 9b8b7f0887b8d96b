"""The door: atomic, durable, and with errors that people can act on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fetchverify.core.manifest import Digest
from fetchverify.errors import DiskError, ExitCode
from fetchverify.store import syscalls
from fetchverify.store.disk import Disk
from fetchverify.store.partial import Partial

MiB = 1 << 20
DIGEST = Digest(algo="sha256", hex="ab" * 32)


def test_a_file_is_created_only_where_nothing_is(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(DiskError, match=f"cannot create `{tmp_path}/{name}`: File exists"):
            disk.create(tmp_path / name)
    assert (b"old", False) == ((tmp_path / "there").read_bytes(), (tmp_path / "elsewhere").exists())


def test_no_write_goes_through_a_symlink(disk: Disk, tmp_path: Path) -> None:
    """A link planted in our area must not let us write into somebody's file."""
    (tmp_path / "victim").write_bytes(b"v")
    (tmp_path / "link").symlink_to("victim")
    for opening in (disk.open_rw, disk.open_append):
        with pytest.raises(DiskError, match="Too many levels of symbolic links"):
            opening(tmp_path / "link")
    disk.write_file(tmp_path / "link", b"mine")
    assert (b"v", b"mine") == ((tmp_path / "victim").read_bytes(), (tmp_path / "link").read_bytes())


def test_short_writes_are_continued(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:3], offset))
    fd = disk.create(tmp_path / "f")
    disk.write_at(fd, b"0123456789", 2)
    disk.write_at(fd, memoryview(b"abcdefg"), 12)
    disk.close(fd)
    assert b"\0\x000123456789abcdefg" == (tmp_path / "f").read_bytes()


def test_a_written_file_is_old_or_new_and_leaves_no_rubbish(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write_file(tmp_path / "f", b"old", mode=0o640)
    assert 0o640 == (tmp_path / "f").stat().st_mode & 0o777

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskError, match="Input/output error") as caught:
        disk.write_file(tmp_path / "f", b"new")
    assert (ExitCode.DISK, ["f"]) == (caught.value.exit_code, os.listdir(tmp_path))
    assert caught.value.hint is not None
    assert "dmesg" in caught.value.hint
    assert b"old" == (tmp_path / "f").read_bytes()


def test_a_symlink_is_replaced_in_one_step(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    for target in ("one", "two"):
        disk.symlink(target, tmp_path / "link", staging=tmp_path / "staging")
        assert target == os.readlink(tmp_path / "link")
    (tmp_path / "file").write_bytes(b"x")
    disk.symlink("two", tmp_path / "file")
    assert ("two", []) == (os.readlink(tmp_path / "file"), os.listdir(tmp_path / "staging"))


def test_removing_a_tree_removes_links_and_not_what_they_lead_to(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").write_bytes(b"x")
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    (tmp_path / "gone" / "deep" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "gone" / "f").write_bytes(b"x")
    disk.remove_tree(tmp_path / "gone")
    disk.remove_tree(tmp_path / "gone")
    assert (["kept"], ["f"]) == (os.listdir(tmp_path), os.listdir(tmp_path / "kept"))


def test_a_copy_has_its_own_blocks_in_effect(disk: Disk, tmp_path: Path) -> None:
    data = os.urandom(3 * MiB + 17)
    (tmp_path / "a").write_bytes(data)
    assert disk.clone_or_copy(tmp_path / "a", tmp_path / "b") in {"reflink", "copy"}
    assert data == (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(b"changed")
    assert data == (tmp_path / "a").read_bytes()
    with pytest.raises(DiskError, match="File exists"):
        disk.clone_or_copy(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DiskError, match="cannot read"):
        disk.clone_or_copy(tmp_path / "absent", tmp_path / "c")
    assert ["a", "b"] == sorted(os.listdir(tmp_path))


def test_a_copy_works_where_the_kernel_cannot_copy(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "copy_file_range", refused)
    data = os.urandom(2 * MiB + 5)
    (tmp_path / "a").write_bytes(data)
    assert "copy" == disk.clone_or_copy(tmp_path / "a", tmp_path / "b")
    assert data == (tmp_path / "b").read_bytes()


def test_where_space_cannot_be_reserved_the_file_is_sparse(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """glibc would write a byte to every block instead: as slow as the download."""
    monkeypatch.setattr(syscalls, "_libc_fallocate", lambda: lambda *_: errno.EOPNOTSUPP)
    fd = disk.create(tmp_path / "f")
    assert not disk.preallocate(fd, 64 * MiB)
    disk.close(fd)
    seen = (tmp_path / "f").stat()
    assert (64 * MiB, True) == (seen.st_size, seen.st_blocks * 512 < MiB)


def test_reserved_space_is_really_there(disk: Disk, tmp_path: Path) -> None:
    fd = disk.create(tmp_path / "f")
    reserved = disk.preallocate(fd, 4 * MiB)
    disk.close(fd)
    seen = (tmp_path / "f").stat()
    assert 4 * MiB == seen.st_size
    assert reserved == (seen.st_blocks * 512 >= 4 * MiB)


@contextmanager
def mounted(point: Path, *arguments: str) -> Iterator[Path]:
    point.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *arguments, str(point)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as point:
        yield point


@pytest.fixture
def small_ext4(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 * MiB)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with mounted(tmp_path / "ext4", "-o", "loop", str(image)) as point:
        yield point


@pytest.mark.root
def test_a_full_disk_says_how_much_is_missing_and_what_to_do(disk: Disk, small_disk: Path) -> None:
    fd = disk.create(small_disk / "f")
    disk.write_at(fd, b"x" * 2 * MiB, 0)
    with pytest.raises(DiskError) as caught:
        disk.write_at(fd, b"x" * MiB, 2 * MiB)
    disk.close(fd)
    expected = f"cannot write to `{small_disk}/f`: No space left on device (ENOSPC); 1.0 MiB needed, 0 B free"
    assert expected == caught.value.message
    assert caught.value.hint is not None
    assert "free some space" in caught.value.hint


@pytest.mark.root
def test_a_file_that_does_not_fit_leaves_the_disk_as_it_was(disk: Disk, small_disk: Path) -> None:
    """A refused reservation that keeps half of the disk would break everybody else on it."""
    free = disk.free_bytes(small_disk)
    with pytest.raises(DiskError, match=r"8\.0 MiB needed, 2\.0 MiB free"):
        Partial.open(disk, small_disk, DIGEST, 8 * MiB)
    assert free - disk.free_bytes(small_disk) < 64 << 10
    with pytest.raises(DiskError, match="ENOSPC"):  # and nobody is locked out by the attempt
        Partial.open(disk, small_disk, DIGEST, 8 * MiB)


@pytest.mark.root
def test_what_ext4_could_reserve_of_it_is_given_back(disk: Disk, small_ext4: Path) -> None:
    """ext4 keeps half of a reservation that fails; tmpfs does not."""
    free = disk.free_bytes(small_ext4)
    with pytest.raises(DiskError, match="ENOSPC"):
        Partial.open(disk, small_ext4, DIGEST, 64 * MiB)
    assert free - disk.free_bytes(small_ext4) < MiB
    Partial.open(disk, small_ext4, DIGEST, 8 * MiB).close()
