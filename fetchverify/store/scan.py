"""Reads folders without following links, and remembers what could not be looked at; `survey` says what it means."""

from __future__ import annotations

import os
import stat
from operator import attrgetter

from fetchverify.core.facts import Entry, State

_MOST_DEPTH = 128  # deeper than PATH_MAX allows with names of one letter is no repo


_fields = attrgetter(*State._fields)


def state_of(seen: os.stat_result) -> State:
    """Return the part of a stat that is kept."""
    return State._make(_fields(seen))


class Scan:
    """Reads folders; remembers what could not be looked at, by path below the root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.unreadable: dict[str, str] = {}

    def entries(self, path: str) -> list[os.DirEntry[str]]:
        """Return what lies in the folder `path` below the root; nothing where it is absent or no folder."""
        full = f"{self.root}/{path}" if path else self.root
        try:
            if stat.S_ISLNK(os.lstat(full).st_mode) and path:
                self.unreadable[path] = "a symbolic link where a folder belongs: not followed"
                return []
            with os.scandir(full) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.unreadable[path] = (error.strerror or "it cannot be read").lower()
            return []

    def state(self, entry: os.DirEntry[str], folder: str) -> State | None:
        """Return the own state of an entry of a folder; None where it is gone by now."""
        try:
            return state_of(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return None
        except OSError as error:
            path = f"{folder}/{entry.name}" if folder else entry.name
            self.unreadable[path] = (error.strerror or "it cannot be looked at").lower()
            return None

    def states(self, path: str, *, links: list[str] | None = None) -> dict[str, State]:
        """Return the states of what lies in a folder, by name.

        Args:
            path: the folder, below the root.
            links: takes the names of symbolic links, which are left out then.
        """
        found: dict[str, State] = {}
        full = f"{self.root}/{path}" if path else self.root
        try:
            if stat.S_ISLNK(os.lstat(full).st_mode) and path:
                self.unreadable[path] = "a symbolic link where a folder belongs: not followed"
                return found
            # By descriptor: else the kernel walks down the whole path for each of 100,000 names.
            fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if path else 0))
        except FileNotFoundError:
            return found
        except OSError as error:
            self.unreadable[path] = (error.strerror or "it cannot be read").lower()
            return found
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if links is not None and entry.is_symlink():
                        links.append(entry.name)
                        continue
                    try:  # not by `state`: a call more for each of 100,000
                        found[entry.name] = State._make(_fields(entry.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        name = f"{path}/{entry.name}" if path else entry.name
                        self.unreadable[name] = (error.strerror or "it cannot be looked at").lower()
        except OSError as error:
            self.unreadable[path] = (error.strerror or "it cannot be read").lower()
        finally:
            os.close(fd)
        return found

    def tree(
        self, top: str, *, skip: frozenset[str] = frozenset(), folders: dict[str, State] | None = None
    ) -> dict[str, Entry]:
        """Return every name below a folder that is no folder, by path below it; links are not followed.

        Args:
            top: the folder, below the root.
            skip: names directly below it that are left out.
            folders: takes the states of all folders, by path below the first one, as they were before each was read.
        """
        found: dict[str, Entry] = {}
        self._tree(f"{self.root}/{top}" if top else self.root, top, "", skip, found, folders, 0)
        return found

    def _tree(
        self,
        full: str,
        shown: str,
        prefix: str,
        skip: frozenset[str],
        found: dict[str, Entry],
        states: dict[str, State] | None,
        depth: int,
    ) -> None:
        if depth > _MOST_DEPTH:
            self.unreadable[shown] = "too many folders in one another"
            return
        try:
            # O_NOFOLLOW, and names below relative to the descriptor: a folder that is swapped for a link meanwhile
            # leads nowhere.
            fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self.unreadable[shown] = (error.strerror or "it cannot be read").lower()
            return
        folders = []
        try:
            if states is not None:
                states[prefix[:-1]] = state_of(os.fstat(fd))
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = entry.name
                    if name in skip:
                        continue
                    try:
                        if entry.is_symlink():
                            found[prefix + name] = os.readlink(name, dir_fd=fd)
                        elif entry.is_dir(follow_symlinks=False):
                            folders.append(name)
                        else:
                            found[prefix + name] = state_of(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        self.unreadable[f"{shown}/{name}"] = (error.strerror or "it cannot be looked at").lower()
        except OSError as error:
            self.unreadable[shown] = (error.strerror or "it cannot be read").lower()
        finally:
            os.close(fd)
        for name in sorted(folders):
            below = f"{shown}/{name}" if shown else name
            self._tree(f"{full}/{name}", below, f"{prefix}{name}/", frozenset(), found, states, depth + 1)


def small_bytes(path: str, most: int) -> bytes | None:
    """Return a file's content; None where it is a link, a pipe, longer than `most` bytes or cannot be read."""
    try:
        # Not blocking: a pipe without a writer would keep us for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or seen.st_size > most:
            return None
        with open(fd, "rb", closefd=False) as file:
            return file.read(most)
    except OSError:
        return None
    finally:
        os.close(fd)
