"""Small file systems for tests: tmpfs, or an image on a loop device; needs root."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "exfat": ["mkfs.exfat"],  # ignores case, has neither symbolic nor hard links
}

_CUTTABLE = {"ext4": "192M", "xfs": "320M"}  # XFS takes no less than 300 MB
_FS_IOC_SHUTDOWN = 0x8004587D  # linux/fs.h: _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2


@contextmanager
def mounted(tmp_path: Path, kind: str, size: str, *, image: Path | None = None, options: str = "") -> Iterator[Path]:
    """Mount a fresh file system of `size` (such as `64M`) below `tmp_path`; skips where that cannot be done.

    Args:
        tmp_path: where the mount point is made.
        kind: of the file system.
        size: of its image, or of the memory it may take.
        image: where the image lies; by default below `tmp_path`.
        options: for `mount -o`, separated by commas.
    """
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    where = tmp_path / f"mnt-{kind}"
    where.mkdir()
    if kind == "tmpfs":
        _call(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)])
    else:
        if shutil.which(_MAKE[kind][0]) is None:
            pytest.skip(f"`{_MAKE[kind][0]}` is not installed")
        image = image or tmp_path / f"{kind}.img"
        _call(["truncate", "-s", size, str(image)])
        _call([*_MAKE[kind], str(image)])
        if kind == "exfat":
            with _exfat(image, where):
                yield where
            return
        _call(["mount", "-o", ",".join(filter(None, ["loop", options])), str(image), str(where)])
    try:
        yield where
    finally:
        _call(["umount", "-l", str(where)])


def cut_power(where: Path) -> None:
    """Stop the file system at `where` at once: what its journal did not get by now never reaches the disk."""
    try:
        fd = os.open(where, os.O_RDONLY)
    except OSError as error:
        if error.errno == errno.EIO:  # XFS, stopped before its command's last operation, which none depends on
            return
        raise
    try:
        fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


class Volume:
    """A file system on a loop device whose power can be cut, and which then boots from what its disk has.

    Attributes:
        where: the mount point; the same after each boot.
    """

    def __init__(self, tmp_path: Path, kind: str) -> None:
        """Make and mount it; skips where that cannot be done."""
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        if shutil.which(_MAKE[kind][0]) is None:
            pytest.skip(f"`{_MAKE[kind][0]}` is not installed")
        self.where = tmp_path / f"volume-{kind}"
        self.where.mkdir()
        self._boots = 0
        self._folder, self._kind = tmp_path, kind
        _call(["truncate", "-s", _CUTTABLE[kind], str(self._image)])
        _call([*_MAKE[kind], str(self._image)])
        self._mount()

    @property
    def _image(self) -> Path:
        return self._folder / f"{self._kind}-{self._boots}.img"

    def _mount(self) -> None:
        _call(["mount", "-o", "loop", str(self._image), str(self.where)])

    def settle(self) -> None:
        """Write everything to the disk."""
        _call(["sync", "-f", str(self.where)])

    def cut(self) -> None:
        """Cut the power; nothing can be written any more."""
        cut_power(self.where)

    def boot(self) -> None:
        """Mount a copy of the disk: the kernel may give the original's dead superblock back."""
        old = self._image
        self._boots += 1
        _call(["cp", "--sparse=always", str(old), str(self._image)])
        _call(["umount", "-l", str(self.where)])
        old.unlink()
        self._mount()

    def close(self) -> None:
        """Unmount it and forget it."""
        _call(["umount", "-l", str(self.where)])
        self._image.unlink()
        self.where.rmdir()


@contextmanager
def _exfat(image: Path, where: Path) -> Iterator[None]:
    """Mount through FUSE: few kernels carry exFAT."""
    if shutil.which("mount.exfat-fuse") is None:
        pytest.skip("`mount.exfat-fuse` is not installed")
    device = _call(["losetup", "-f", "--show", str(image)]).strip()
    command = ["mount.exfat-fuse", "-d", device, str(where)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while not where.is_mount():
            if driver.poll() is not None or time.monotonic() > until:
                pytest.skip("FUSE does not work here")
            time.sleep(0.02)
        yield
    finally:
        _call(["umount", "-l", str(where)])
        driver.wait(10)
        _call(["losetup", "-d", device])


def call(*command: str) -> str:
    """Run a command that manages file systems and return its output; skips where it fails."""
    return _call(list(command))


def _call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"`{command[0]}` failed here: {done.stderr.strip()}")
    return done.stdout
