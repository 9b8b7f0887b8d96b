"""A mirror in folders: `<org>/<name>/<commit>/` with the repo's files, and a link beside it for each revision.

Models lie at the root, datasets below `datasets/`, spaces below `spaces/`: as in the Hub's own addresses. A revision
is a link whose text is a commit, its name quoted as in a URL (`refs%2Fpr%2F1`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from fetchverify.core.hubroute import is_repo_id
from fetchverify.core.manifest import Commit, RemoteFile, RepoKind
from fetchverify.core.paths import obstacle
from fetchverify.core.tree import is_commit
from fetchverify.serve.listings import Listings
from fetchverify.serve.mirror import Listing
from fetchverify.serve.records import Held, Records, Why, judged
from fetchverify.store import trees
from fetchverify.store.area import AREA_NAME
from fetchverify.store.beneath import open_beneath
from fetchverify.store.localdir import HUB_FOLDER

_TOPS: dict[RepoKind, tuple[str, ...]] = {"model": (), "dataset": ("datasets",), "space": ("spaces",)}
_NO_ORGS = {"datasets", "spaces", AREA_NAME}


class FolderMirror:
    """A folder of folders; implements `Mirror`."""

    def __init__(self, root: Path, *, only_proved: bool = False) -> None:
        """Serve folders; with `only_proved` nothing that our records do not vouch for."""
        self.root = Path(os.path.realpath(root))
        self._records = Records()
        self._listings = Listings()
        self._only_proved = only_proved

    def repo(self, kind: RepoKind, repo_id: str) -> FolderRepo | None:
        """Return a repo; a link in its place, or on the way to it, is none."""
        parts = (*_TOPS[kind], *repo_id.split("/"))
        if kind == "model" and parts[0] in _NO_ORGS:
            return None
        path = str(self.root)
        for part in parts:
            path = f"{path}/{part}"
            if not _is_folder(path):
                return None
        found = FolderRepo(self.root, parts, self._records, self._listings, only_proved=self._only_proved)
        return found if found.holds_any() else None

    def names(self, kind: RepoKind) -> Sequence[str]:
        """Return the names of all repos of a kind, sorted."""
        top = self.root.joinpath(*_TOPS[kind])
        found: list[str] = []
        for org in _folders(top):
            if kind == "model" and org in _NO_ORGS:
                continue
            found += [org, *(f"{org}/{name}" for name in _folders(top / org))]
        return [name for name in sorted(found) if is_repo_id(name) and self.repo(kind, name) is not None]


class FolderRepo:
    """One repo of a mirror in folders; implements `Repo`."""

    def __init__(
        self, root: Path, parts: Sequence[str], records: Records, listings: Listings, *, only_proved: bool
    ) -> None:
        self._root = root
        self._parts = tuple(parts)
        self._path = "/".join((str(root), *parts))
        self._records = records
        self._listings = listings
        self._only_proved = only_proved

    def holds_any(self) -> bool:
        """Return whether any commit lies here; else this is somebody's folder, or one that is being made."""
        return any(is_commit(name) for name in _folders(Path(self._path)))

    def commit(self, revision: str) -> Commit | None:
        """Return the commit to which the revision's link leads; a commit stands for itself, where it lies here."""
        if is_commit(revision):
            return Commit(revision) if _is_folder(f"{self._path}/{revision}") else None
        try:
            text = str(Path(self._path, quote(revision, safe="")).readlink())
        except (OSError, ValueError):
            return None
        return Commit(text) if is_commit(text) and _is_folder(f"{self._path}/{text}") else None

    def refs(self) -> Mapping[str, Commit]:
        """Return all revisions that have a link."""
        with os.scandir(self._path) as entries:
            names = [unquote(entry.name) for entry in entries if entry.is_symlink()]
        return {name: commit for name in names if (commit := self.commit(name)) is not None}

    def listing(self, commit: Commit) -> Listing | None:
        """Return the listing that lies with the commit's files."""
        folder = Path(self._path, commit, *HUB_FOLDER)
        return self._listings.get(f"{folder}/trees/{commit}.json", commit, lambda: trees.read_tree(folder, commit))

    def hold(self, commit: Commit, file: RemoteFile) -> Held | Why:
        """Open the file in its commit's folder."""
        if obstacle(file.path, folder=True) is not None:
            return "absent"  # what lies there is book-keeping
        opened = open_beneath(self._root, (*self._parts, commit, *file.path.split("/")))
        if opened is None:
            return "absent"
        # The ledger lies with the commit, or with the repo where commits share their files.
        areas = (f"{self._path}/{commit}/{AREA_NAME}", f"{self._path}/{AREA_NAME}")
        return judged(self._records, areas, file, *opened, only_proved=self._only_proved)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
