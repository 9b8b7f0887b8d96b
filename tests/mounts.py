"""Small file systems for tests: tmpfs, or an image on a loop device; needs root."""

from __future__ import annotations

import os
import shutil
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
