"""System calls that Python lacks, or wraps with an emulation we do not want; each says False where it is absent."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_ABSENT = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM}


@functools.cache
def _libc_fallocate() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (AttributeError, OSError):  # musl: off_t is 64 bits in `fallocate` itself
        try:
            call = ctypes.CDLL(None, use_errno=True).fallocate
        except (AttributeError, OSError):
            return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def fallocate_(fd: int, mode: int, offset: int, length: int) -> int:
        return 0 if call(fd, mode, offset, length) == 0 else ctypes.get_errno()

    return fallocate_


def fallocate(fd: int, size: int) -> bool:
    """Reserve the file's first `size` bytes; False where the file system cannot.

    Not `os.posix_fallocate`: glibc emulates that by writing a byte to every block, which for a model's shard
    takes as long as the download.

    Raises:
        OSError: it can, but the space is not there.
    """
    call = _libc_fallocate()
    if call is None:
        return False
    code = errno.EINTR
    while code == errno.EINTR:
        code = call(fd, 0, 0, size)
    if code in _ABSENT:
        return False
    if code:
        raise OSError(code, os.strerror(code))
    return True


@functools.cache
def _libc_syncfs() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int,)
    return lambda fd: 0 if call(fd) == 0 else ctypes.get_errno()


def syncfs(fd: int) -> bool:
    """Make all that was written to the file system of `fd` survive a power cut; False where that cannot be asked.

    Raises:
        OSError: some of it could not be written (Linux 5.8 and later tell).
    """
    call = _libc_syncfs()
    if call is None:
        return False
    code = call(fd)
    if code in _ABSENT:
        return False
    if code:
        raise OSError(code, os.strerror(code))
    return True


def reflink(source_fd: int, fd: int) -> bool:
    """Make the file `fd` share all blocks of `source_fd` (Btrfs, XFS, bcachefs); False where that is impossible."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def copy_range(source_fd: int, fd: int, offset: int, size: int) -> int:
    """Copy up to `size` bytes at `offset` from one file to the other and return how many; 0 at the source's end."""
    if sys.platform == "linux":
        try:
            return os.copy_file_range(source_fd, fd, size, offset, offset)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    data = os.pread(source_fd, min(size, 1 << 20), offset)
    return os.pwrite(fd, data, offset) if data else 0
