"""The one door to durable writes: create, write, rename, link, unlink, fsync; what to write is left to others."""

# System calls under their own names: a crash recorder and a reader of `strace` see the same words.
# ruff: noqa: PTH101, PTH102, PTH105, PTH106, PTH108, PTH211

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Literal, TypeAlias

from fetchverify.errors import DiskError
from fetchverify.store.syscalls import copy_range, fallocate, reflink

AnyPath: TypeAlias = str | os.PathLike[str]

_COPY_CHUNK = 8 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}
_HINTS = {
    errno.ENOSPC: "free some space and run the same command again: what arrived is kept",
    errno.EDQUOT: "your quota is used up; free some space and run the same command again: what arrived is kept",
    errno.EROFS: "the file system is mounted read-only; remount it or choose another folder",
    errno.EACCES: "check who owns the folder and its permissions",
    errno.EPERM: "check who owns the folder and its permissions",
    errno.EIO: "the device reports failures; look at `dmesg` and at its health before trying again",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}


def _amount(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def free_bytes(path: AnyPath) -> int:
    """Return what the file system of `path` (or of its nearest parent that exists) can still take from this user."""
    here = Path(path).absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    usage = os.statvfs(here)
    return usage.f_bavail * usage.f_frsize


def disk_error(cause: OSError, doing: str, path: AnyPath, needed: int = 0) -> DiskError:
    """Return our error for an `OSError`: what failed, on which path, why, and what to do."""
    code = cause.errno or 0
    message = (
        f"cannot {doing} `{os.fspath(path)}`: {os.strerror(code) if code else cause} ({errno.errorcode.get(code, '?')})"
    )
    if code in _FULL:
        try:
            free = free_bytes(path)
        except OSError:
            free = 0
        message += f"; {_amount(needed)} needed, {_amount(free)} free" if needed else f"; {_amount(free)} free"
    return DiskError(message, hint=_HINTS.get(code))


class Disk:
    """Durable writes, passed around as an instance so that a test can record them and replay a crash.

    Every `OSError` leaves as `DiskError`. Thread-safe: an instance holds only the names of its open descriptors.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # descriptor -> path, for messages

    # -- descriptors

    def create(self, path: AnyPath, mode: int = 0o666) -> int:
        """Create a file that must not exist yet and return its descriptor; a symlink there is not followed."""
        return self._open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode, "create")

    def open_rw(self, path: AnyPath, *, append: bool = False) -> int:
        """Open an existing regular file for reading and writing; a symlink there is not followed."""
        fd = self._open(path, os.O_RDWR | (os.O_APPEND if append else 0), 0, "open")
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

    def symlink(self, target: AnyPath, dst: AnyPath, *, staging: AnyPath | None = None) -> None:
        """Make `dst` a symbolic link with the text `target`, replacing what is there atomically.

        Args:
            target: the link's text, relative to where `dst` lies.
            dst: the name.
            staging: where the temporary link is made; by default beside `dst`, where others may see it for a moment.
        """
        if not os.path.lexists(dst):
            try:
                self.make_symlink(target, dst)
                return
            except DiskError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
        temporary = temporary_name(staging or Path(dst).parent)
        self.make_symlink(target, temporary)
        try:
            self.rename(temporary, dst)
        except DiskError:
            self.unlink(temporary, missing_ok=True)
            raise

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

    def remove_tree(self, path: AnyPath) -> None:
        """Remove a directory with all that lies in it; links are removed, not followed; absent is fine."""
        try:
            with os.scandir(path) as entries:
                for entry in list(entries):
                    if entry.is_dir(follow_symlinks=False):
                        self.remove_tree(entry.path)
                    else:
                        self.unlink(entry.path, missing_ok=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_error(error, "remove folder", path) from error
        self.remove_dir(path)

    def set_mode(self, path: AnyPath, mode: int) -> None:
        """Set permission bits."""
        try:
            os.chmod(path, mode)
        except OSError as error:
            raise disk_error(error, "set permissions of", path) from error

    # -- whole files

    def write_file(
        self,
        path: AnyPath,
        data: bytes,
        mode: int | None = None,
        *,
        staging: AnyPath | None = None,
        durable: bool = True,
    ) -> None:
        """Put `data` under `path` so that every reader, also after a crash, sees the old bytes or all the new ones.

        Args:
            path: the name.
            data: all of the content.
            mode: permission bits; by default what the umask leaves of 0666.
            staging: where the temporary file is made (same file system); by default beside `path`.
            durable: False leaves out the syncs, for what may be lost and carries its own checksum.
        """
        temporary = temporary_name(staging or Path(path).parent)
        fd = self.create(temporary, 0o666 if mode is None else mode)
        try:
            try:
                self.write_at(fd, data, 0)
                if durable:
                    self.fsync(fd)
            finally:
                self.close(fd)
            if mode is not None:
                self.set_mode(temporary, mode)  # the umask took its share at creation
            self.rename(temporary, path)
        except BaseException:
            self.unlink(temporary, missing_ok=True)
            raise
        if durable:
            self.fsync_dir(Path(path).parent)

    def clone_or_copy(self, src: AnyPath, dst: AnyPath) -> Literal["reflink", "copy"]:
        """Make `dst`, a name that must not exist yet, a synced copy of `src` that shares its blocks where possible."""
        try:
            source_fd = os.open(src, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_error(error, "read", src) from error
        try:
            fd = self.create(dst)
            try:
                how = self.copy_into(source_fd, fd, os.fstat(source_fd).st_size)
                self.fsync(fd)
            except BaseException:
                self.close(fd)
                self.unlink(dst, missing_ok=True)
                raise
            self.close(fd)
            return how
        finally:
            os.close(source_fd)

    def free_bytes(self, path: AnyPath) -> int:
        """Return what the file system can still take from this user."""
        try:
            return free_bytes(path)
        except OSError as error:
            raise disk_error(error, "look at the free space of", path) from error


def temporary_name(folder: AnyPath) -> Path:
    """Return a fresh name in `folder`; it tells its process, so that orphans can be recognized."""
    return Path(folder) / f".fv-{os.getpid()}-{secrets.token_hex(6)}"
