"""The one door to durable writes: whole files, links and copies that a crash leaves old or new, never half.

What to write is left to others.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from fetchverify.errors import DiskError
from fetchverify.store.diskerrors import AnyPath, disk_error
from fetchverify.store.rawdisk import RawDisk

TEMPORARY = ".fv-"  # how the names of temporary files begin


class Disk(RawDisk):
    """Durable writes, passed around as an instance so that a test can record them and replay a crash.

    Its methods are made of `RawDisk`'s, which are the ones to record.
    """

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
            self._try_to_unlink(temporary)
            raise

    def _try_to_unlink(self, path: AnyPath) -> None:
        """Clean up after an error, which is the one to hear of: on a disk that became read-only this fails, too."""
        with suppress(DiskError):
            self.unlink(path, missing_ok=True)

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

    def write_file(
        self,
        path: AnyPath,
        data: bytes | Iterable[bytes],
        mode: int | None = None,
        *,
        staging: AnyPath | None = None,
        durable: bool = True,
    ) -> None:
        """Put `data` under `path` so that every reader, also after a crash, sees the old bytes or all the new ones.

        Args:
            path: the name.
            data: all of the content, or its pieces in order.
            mode: permission bits; by default what the umask leaves of 0666.
            staging: where the temporary file is made (same file system); by default beside `path`.
            durable: False leaves out the syncs, for what may be lost and carries its own checksum.
        """
        temporary = temporary_name(staging or Path(path).parent)
        fd = self.create(temporary, 0o666 if mode is None else mode)
        try:
            try:
                offset = 0
                for piece in (data,) if isinstance(data, bytes) else data:
                    self.write_at(fd, piece, offset)
                    offset += len(piece)
                if durable:
                    self.fsync(fd)
            finally:
                self.close(fd)
            if mode is not None:
                self.set_mode(temporary, mode)  # the umask took its share at creation
            self.rename(temporary, path)
        except BaseException:
            self._try_to_unlink(temporary)
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
                self._try_to_unlink(dst)
                raise
            self.close(fd)
            return how
        finally:
            os.close(source_fd)


def temporary_name(folder: AnyPath) -> Path:
    """Return a fresh name in `folder`; it tells its process, so that orphans can be recognized."""
    return Path(folder) / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
