"""What has a name below a root, without following links: for 100,000 names in one pass, hence strings."""

from __future__ import annotations

import os
import stat
from pathlib import Path

SHORT = 60  # letters; no part of such a path is longer than a name may be, whatever UTF-8 makes of it


class Looker:
    """Looks at paths below a root without following links; folders are looked at once."""

    def __init__(self, root: Path, *, longest_name: int = 255) -> None:
        """Look below `root`, which need not exist; names longer than `longest_name` bytes cannot be created."""
        self._root = f"{root}/"
        self._longest_name = longest_name
        self._folders: dict[str, str | None] = {}
        self._absent: set[str] = set() if os.path.lexists(root) else {""}

    def at(self, path: str) -> os.stat_result | str | None:
        """Return what has the name (a file or a link), why it cannot be written to, or None where nothing is there."""
        folder, slash, _ = path.rpartition("/")
        why = self._obstacle(folder) if slash else None
        if why is not None:
            return why
        if len(path) > SHORT and any(len(part.encode()) > self._longest_name for part in path.split("/")):
            return f"`{path}` has a name too long for this folder"
        if folder in self._absent:
            return None
        try:
            found = os.lstat(self._root + path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"`{path}` cannot be looked at: {error.strerror}"
        if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            return found
        return f"`{path}` is a folder" if stat.S_ISDIR(found.st_mode) else f"`{path}` is a special file"

    def _obstacle(self, folder: str) -> str | None:
        if folder in self._folders:
            return self._folders[folder]
        parent, slash, _ = folder.rpartition("/")
        why = self._obstacle(parent) if slash else None
        if parent in self._absent:
            self._absent.add(folder)
        elif why is None:
            try:
                mode = os.lstat(self._root + folder).st_mode
                if stat.S_ISLNK(mode):
                    why = f"`{folder}` is a symbolic link to `{Path(self._root + folder).readlink()}`"
                elif not stat.S_ISDIR(mode):
                    why = f"`{folder}` is not a folder"
            except FileNotFoundError:
                self._absent.add(folder)
            except OSError as error:
                why = f"`{folder}` cannot be looked at: {error.strerror}"
        self._folders[folder] = why
        return why
