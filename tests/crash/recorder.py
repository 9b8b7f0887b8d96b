"""A `Disk` that does what it is told and notes every operation in the order in which it happened."""

from __future__ import annotations

import importlib
import os
import pkgutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from fetchverify import commands
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import AnyPath
from tests.crash import model
from tests.crash.model import File, Link, Tree

T = TypeVar("T")


class RecordingDisk(Disk):
    """Notes what happens below `root`; the rest passes through. Thread-safe: one operation at a time.

    Attributes:
        operations: so far; they begin with what lay there.
        inode_of: the inode that each file had, by the file's number.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.operations: list[model.Operation] = []
        self.inode_of: list[int] = []  # by number
        self._numbers: dict[int, int] = {}  # inode -> number of the file that has it now
        self._root = os.path.realpath(root)
        self._turn = threading.RLock()
        self._note_what_is_there()

    def _note_what_is_there(self) -> None:
        names: dict[int, str] = {}
        for folder, folders, files in os.walk(self._root):
            for name in sorted(folders + files):
                path = self._below(f"{folder}/{name}")
                found = os.lstat(f"{folder}/{name}")
                if stat.S_ISLNK(found.st_mode):
                    self._note(model.Symlink(path, os.readlink(f"{folder}/{name}")))
                elif stat.S_ISDIR(found.st_mode):
                    self._note(model.MakeDir(path))
                elif found.st_ino in names:
                    self._note(model.HardLink(names[found.st_ino], path))
                else:
                    names[found.st_ino] = path
                    data, number = Path(folder, name).read_bytes(), self._new(found.st_ino)
                    self._note(model.Create(path, number), model.Write(number, 0, data, found.st_mtime_ns))
        self._note(model.Settle())

    def _below(self, path: AnyPath) -> str:
        path = os.path.abspath(path)  # not resolved: the last part may be the link that is meant
        path = f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"
        if path != self._root and not path.startswith(self._root + "/"):
            raise ValueError(f"`{path}` is not below what is recorded")
        return path[len(self._root) + 1 :]

    def _new(self, inode: int) -> int:
        self._numbers[inode] = len(self.inode_of)
        self.inode_of.append(inode)
        return self._numbers[inode]

    def _number(self, fd: int) -> int:
        return self._numbers[os.fstat(fd).st_ino]

    def _note(self, *operations: model.Operation) -> None:
        self.operations.extend(operations)

    def _in_turn(self, act: Callable[[], T], note: Callable[[T], None]) -> T:
        with self._turn:
            done = act()
            note(done)
            return done

    # -- descriptors

    def _open(self, path: AnyPath, flags: int, mode: int, doing: str) -> int:
        with self._turn:
            there = os.path.lexists(path)
            fd = super()._open(path, flags, mode, doing)
            if not there:
                self._note(model.Create(self._below(path), self._new(os.fstat(fd).st_ino)))
            return fd

    # -- bytes

    def _resized(self, fd: int) -> None:
        found = os.fstat(fd)
        self._note(model.Resize(self._number(fd), found.st_size, found.st_mtime_ns))

    def _written(self, fd: int, data: bytes, offset: int) -> None:
        self._note(model.Write(self._number(fd), offset, data, os.fstat(fd).st_mtime_ns))

    def preallocate(self, fd: int, size: int) -> bool:
        return self._in_turn(lambda: super(RecordingDisk, self).preallocate(fd, size), lambda _: self._resized(fd))

    def truncate(self, fd: int, size: int) -> None:
        self._in_turn(lambda: super(RecordingDisk, self).truncate(fd, size), lambda _: self._resized(fd))

    def write_at(self, fd: int, data: memoryview | bytes, offset: int) -> None:
        with self._turn:
            super().write_at(fd, data, offset)
            self._written(fd, bytes(data), offset)

    def append(self, fd: int, data: bytes) -> None:
        with self._turn:
            end = os.fstat(fd).st_size
            super().append(fd, data)
            self._written(fd, data, end)

    def clone_into(self, source_fd: int, fd: int) -> bool:
        with self._turn:
            cloned = super().clone_into(source_fd, fd)
            if cloned:
                self._written(fd, os.pread(fd, os.fstat(fd).st_size, 0), 0)
            return cloned

    def copy_into(self, source_fd: int, fd: int, size: int) -> Literal["reflink", "copy"]:
        with self._turn:
            how = super().copy_into(source_fd, fd, size)
            if how == "copy":
                self._written(fd, os.pread(fd, size, 0), 0)
            return how

    # -- durability

    def fsync(self, fd: int) -> None:
        self._in_turn(lambda: super(RecordingDisk, self).fsync(fd), lambda _: self._note(model.Sync(self._number(fd))))

    def fsync_path(self, path: AnyPath) -> None:
        with self._turn:
            super().fsync_path(path)
            self._note(model.Sync(self._numbers[os.stat(path).st_ino]))

    def fsync_dir(self, path: AnyPath) -> None:
        with self._turn:
            super().fsync_dir(path)
            self._note(model.SyncDir(self._below(path)))

    # -- names

    def make_dirs(self, path: AnyPath) -> None:
        with self._turn:
            new = [p for p in (Path(path), *Path(path).parents) if not p.exists()]
            super().make_dirs(path)
            self._note(*(model.MakeDir(self._below(p)) for p in reversed(new)))

    def make_dir(self, path: AnyPath) -> bool:
        with self._turn:
            made = super().make_dir(path)
            if made:
                self._note(model.MakeDir(self._below(path)))
            return made

    def rename(self, src: AnyPath, dst: AnyPath) -> None:
        with self._turn:
            super().rename(src, dst)
            self._note(model.Rename(self._below(src), self._below(dst)))

    def link(self, src: AnyPath, dst: AnyPath) -> None:
        with self._turn:
            super().link(src, dst)
            self._note(model.HardLink(self._below(src), self._below(dst)))

    def make_symlink(self, target: AnyPath, dst: AnyPath) -> None:
        with self._turn:
            super().make_symlink(target, dst)
            self._note(model.Symlink(self._below(dst), os.fspath(target)))

    def unlink(self, path: AnyPath, missing_ok: bool = False) -> None:
        with self._turn:
            there = os.path.lexists(path)
            super().unlink(path, missing_ok)
            if there:
                self._note(model.Unlink(self._below(path)))

    def remove_dir(self, path: AnyPath) -> None:
        with self._turn:
            there = os.path.lexists(path)
            super().remove_dir(path)
            if there and not os.path.lexists(path):
                self._note(model.Unlink(self._below(path)))


def use(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    """Make every command of this process write through `disk`."""
    for found in pkgutil.walk_packages(commands.__path__, "fetchverify.commands."):
        module = importlib.import_module(found.name)
        if getattr(module, "Disk", None) is Disk:
            monkeypatch.setattr(module, "Disk", lambda: disk)


def scan(root: Path) -> Tree:
    """Return the tree that lies below `root`."""
    tree: dict[str, File | Link | model.Dir] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            found = path.lstat()
            key = str(path.relative_to(root))
            if stat.S_ISLNK(found.st_mode):
                tree[key] = Link(os.readlink(path))
            elif stat.S_ISDIR(found.st_mode):
                tree[key] = model.Dir()
            else:
                tree[key] = File(path.read_bytes, mtime_ns=found.st_mtime_ns)
    return tree
