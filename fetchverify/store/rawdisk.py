"""Single writes, renames and syncs, with errors for people; what is composed of them is left to `disk`."""

# System calls under their own names: a crash recorder and a reader of `strace` see the same words.
# ruff: noqa: PTH101, PTH102, PTH105, PTH106, PTH108, PTH211

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Literal

from fetchverify.errors import DiskError
from fetchverify.store.diskerrors import AnyPath, disk_error, free_bytes
from fetchverify.store.syscalls import copy_range, fallocate, reflink, syncfs

_COPY_CHUNK = 8 << 20


class RawDisk:
    """One system call a method; every `OSError` leaves as `DiskError`.

    Thread-safe: an instance holds only the names of its open descriptors.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # descriptor -> path, for messages

    # -- descriptors

    def create(self, path: AnyPath, mode: int = 0o666) -> int:
        """Create a file that must not exist yet and return its descriptor; a symlink there is not followed."""
        return self._open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode, "create")

    def open_rw(self, path: AnyPath, *, append: bool = False, direct: bool = False) -> int:
        """Open an existing regular file for reading and writing; a symlink there is not followed.

        Args:
            path: the file.
            append: every write goes to the end.
            direct: writes pass the page cache by; offset, length and the buffer's address must fit the disk's blocks.
        """
        flags = (os.O_APPEND if append else 0) | (os.O_DIRECT if direct else 0)
        fd = self._open(path, os.O_RDWR | flags, 0, "open")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            self.close(fd)
            raise DiskError(f"cannot open `{os.fspath(path)}`: not a regular file")
        return fd

    def open_append(self, path: AnyPath, mode: int = 0o666) -> int:
        """Open a file for appending, creating it where it is absent; a symlink there is not followed."""
        return self._open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, mode, "open")

    def _open(self, path: AnyPath, flags: int, mode: int, doing: str) -> int:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        except OSError as error:
            raise disk_error(error, doing, path) from error
        self._names[fd] = os.fspath(path)
        return fd

    def close(self, fd: int) -> None:
        """Close the descriptor; the error that some network file systems report only here is raised."""
        path = self._names.pop(fd, f"descriptor {fd}")
        try:
            os.close(fd)
        except OSError as error:
            raise disk_error(error, "close", path) from error

    def _name(self, fd: int) -> str:
        return self._names.get(fd, f"descriptor {fd}")

    # -- bytes

    def preallocate(self, fd: int, size: int) -> bool:
        """Make the file `size` bytes long; True where the blocks are really reserved, False where it is sparse.

        Raises:
            DiskError: the space is not there.
        """
        try:
            if size and fallocate(fd, size):
                return True
            os.ftruncate(fd, size)
            return False
        except OSError as error:
            raise disk_error(error, "reserve space for", self._name(fd), size) from error

    def write_at(self, fd: int, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        try:
            written = os.pwrite(fd, data, offset)
            if written != len(data):  # a short write: signals, quotas, a disk that fills up
                rest = memoryview(data).cast("B")
                while written < len(rest):
                    written += os.pwrite(fd, rest[written:], offset + written)
        except OSError as error:
            raise disk_error(error, "write to", self._name(fd), len(data)) from error

    def append(self, fd: int, data: bytes) -> None:
        """Write all of `data` at the end of a file opened for appending, in one call where the system allows."""
        try:
            written = os.write(fd, data)
            while written < len(data):
                written += os.write(fd, data[written:])
        except OSError as error:
            raise disk_error(error, "write to", self._name(fd), len(data)) from error

    def truncate(self, fd: int, size: int) -> None:
        """Set the file's length."""
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            raise disk_error(error, "truncate", self._name(fd), size) from error

    def clone_into(self, source_fd: int, fd: int) -> bool:
        """Make the file `fd` share all of `source_fd`'s blocks; False where the file system cannot."""
        try:
            return reflink(source_fd, fd)
        except OSError as error:
            raise disk_error(error, "copy to", self._name(fd)) from error

    def copy_into(self, source_fd: int, fd: int, size: int) -> Literal["reflink", "copy"]:
        """Fill the empty file `fd` with `source_fd`'s first `size` bytes, sharing their blocks where possible."""
        try:
            if self.clone_into(source_fd, fd):
                return "reflink"
            done = 0
            while done < size:
                moved = copy_range(source_fd, fd, done, min(_COPY_CHUNK, size - done))
                if moved == 0:
                    break  # the source is shorter than it was: the caller's digest or size check says so
                done += moved
            return "copy"
        except OSError as error:
            raise disk_error(error, "copy to", self._name(fd), size) from error

    # -- durability

    def fsync(self, fd: int) -> None:
        """Make the file's bytes survive a power cut. After a failure nothing unsynced may be trusted again."""
        try:
            os.fsync(fd)
        except OSError as error:
            raise disk_error(error, "sync", self._name(fd)) from error

    def fsync_path(self, path: AnyPath) -> None:
        """Make the bytes of a file that somebody else wrote survive a power cut; links are followed."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error, "sync", path) from error

    def sync_file_system(self, path: AnyPath) -> bool:
        """Make all bytes on the path's file system survive a power cut; False where only single files can be synced."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return syncfs(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error, "sync the disk of", path) from error

    def fsync_dir(self, path: AnyPath) -> None:
        """Make the directory's entries (creations, renames, removals) survive a power cut."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # SMB, some FUSE: no such thing for directories
                    raise
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error, "sync", path) from error

    # -- names

    def make_dirs(self, path: AnyPath) -> None:
        """Create the directory and its parents where they are absent."""
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, "create folder", path) from error

    def make_dir(self, path: AnyPath) -> bool:
        """Create one directory; False where the name is taken already, by whatever."""
        try:
            os.mkdir(path)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise disk_error(error, "create folder", path) from error

    def rename(self, src: AnyPath, dst: AnyPath) -> None:
        """Give `src` the name `dst` atomically, replacing what is there."""
        try:
            os.replace(src, dst)
        except OSError as error:
            raise disk_error(error, f"rename `{os.fspath(src)}` to", dst) from error

    def link(self, src: AnyPath, dst: AnyPath) -> None:
        """Give the file a second name that must not exist yet."""
        try:
            os.link(src, dst, follow_symlinks=False)
        except OSError as error:
            raise disk_error(error, f"link `{os.fspath(src)}` as", dst) from error

    def make_symlink(self, target: AnyPath, dst: AnyPath) -> None:
        """Create a symbolic link under a name that must not exist yet."""
        try:
            os.symlink(target, dst)
        except OSError as error:
            raise disk_error(error, "create symbolic link", dst) from error

    def unlink(self, path: AnyPath, missing_ok: bool = False) -> None:
        """Remove a name."""
        try:
            os.unlink(path)
        except FileNotFoundError as error:
            if not missing_ok:
                raise disk_error(error, "remove", path) from error
        except OSError as error:
            raise disk_error(error, "remove", path) from error

    def remove_dir(self, path: AnyPath) -> None:
        """Remove an empty directory; one that is absent or not empty stays as it is."""
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
                raise disk_error(error, "remove folder", path) from error

    def set_mode(self, path: AnyPath, mode: int) -> None:
        """Set permission bits."""
        try:
            os.chmod(path, mode)
        except OSError as error:
            raise disk_error(error, "set permissions of", path) from error

    def free_bytes(self, path: AnyPath) -> int:
        """Return what the file system can still take from this user."""
        try:
            return free_bytes(path)
        except OSError as error:
            raise disk_error(error, "look at the free space of", path) from error
