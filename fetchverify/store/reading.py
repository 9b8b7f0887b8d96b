"""Reading what others wrote: a file by ranges, and the names below a folder, with where links among them lead."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fetchverify.core.diagnosis.facts import Entry, Trouble
from fetchverify.errors import DiskError

_SKIPPED = frozenset({".git", ".fetchverify", "__pycache__", ".locks", "blobs", "refs", "trees"})
MOST_ENTRIES = 50_000
_DEEPEST = 16


class FileSource:
    """A file, read by ranges; the size is the one it had when it was opened."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be, or is no plain file.
        """
        # A pipe under a model's name must not hang us.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise OSError(None, "it is no plain file")
        self._size = found.st_size

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of `[start, stop)`; fewer where the file ends."""
        return os.pread(self._fd, max(0, stop - start), start)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def entries(root: Path, allowed: Path) -> Iterator[Entry]:
    """Yield what has a name below `root`, folders first-come; our own and git's are passed over.

    A link to a folder is not followed: inside `allowed` the folder itself is met on the way, or is one that was met
    before. What was left out, for being too much or too deep, is yielded as entries that say so.

    Args:
        root: a folder, or one file.
        allowed: where links may lead: the folder itself, or the repo's part of the cache.

    Raises:
        DiskError: the folder cannot be read.
    """
    if not root.is_dir():
        seen = _entry(root, root.name, allowed)
        if seen is not None:
            yield seen
        return
    waiting: list[tuple[Path, str, int]] = [(root, "", 0)]
    count = 0
    too_deep = False
    while waiting:
        folder, prefix, depth = waiting.pop()
        try:
            found = sorted(os.scandir(folder), key=lambda one: one.name)
        except OSError as error:
            if folder == root:
                raise DiskError(f"`{root}` cannot be read: {error.strerror}") from error
            yield Entry(path=prefix.rstrip("/"), size=0, trouble=Trouble.UNREADABLE, detail=str(error.strerror))
            continue
        for one in found:
            count += 1
            if count > MOST_ENTRIES:
                yield _left_out(f"all but the first {MOST_ENTRIES:,} names")
                return
            if not one.is_dir(follow_symlinks=False):
                seen = _entry(Path(one.path), prefix + one.name, allowed)
                if seen is not None:
                    yield seen
            elif one.name in _SKIPPED or f"{prefix}{one.name}" == ".cache":
                continue
            elif depth < _DEEPEST:
                waiting.append((Path(one.path), f"{prefix}{one.name}/", depth + 1))
            elif not too_deep:
                too_deep = True
                yield _left_out(f"folders more than {_DEEPEST} deep")


def _left_out(what: str) -> Entry:
    return Entry(path=".", size=0, trouble=Trouble.LEFT_OUT, detail=what)


def file_names(root: Path) -> Iterator[str]:
    """Yield the paths of the files below `root` in no order; only names are read, and what cannot be is passed over."""
    waiting = [(str(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            with os.scandir(folder) as found:
                for one in found:
                    if not one.is_dir(follow_symlinks=False):
                        yield prefix + one.name
                    elif one.name not in _SKIPPED and f"{prefix}{one.name}" != ".cache":
                        waiting.append((one.path, f"{prefix}{one.name}/"))
        except OSError:
            continue


def _entry(path: Path, name: str, allowed: Path) -> Entry | None:
    """Return what is known of a name that is no folder; None for a link to a folder inside."""
    link = ""
    try:
        link = str(path.readlink()) if path.is_symlink() else ""
        found = path.stat()
    except FileNotFoundError:
        return Entry(path=name, size=0, trouble=Trouble.DANGLING, detail=link)
    except OSError as error:
        why = Trouble.DANGLING if error.errno == errno.ELOOP else Trouble.UNREADABLE
        return Entry(path=name, size=0, trouble=why, detail=link if link else str(error.strerror))
    outside = bool(link) and not path.resolve().is_relative_to(allowed)
    if stat.S_ISDIR(found.st_mode):
        return Entry(path=name, size=0, trouble=Trouble.FOLDER_OUTSIDE, detail=link) if outside else None
    trouble = Trouble.OUTSIDE if outside else None
    return Entry(path=name, size=found.st_size, executable=bool(found.st_mode & 0o111), trouble=trouble, detail=link)
