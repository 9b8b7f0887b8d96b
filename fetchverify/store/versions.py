"""A mirror's folders of one repo: `COMMIT/` with plain files, and a link a revision that is swapped in one step."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.core.tree import is_commit
from fetchverify.errors import DiskError
from fetchverify.store.area import AREA_NAME
from fetchverify.store.disk import Disk, temporary_name
from fetchverify.store.folder import Folder

INCOMING = ".incoming"
_GONE = "gone-"


def folder_of(root: Path, ref: RepoRef) -> Path:
    """Return where a repo's versions lie: `org/name`, with the kind before it where it is no model."""
    parts = ref.repo_id.split("/")
    return root.joinpath(*([] if ref.kind == "model" else [f"{ref.kind}s"]), *parts)


class Versions:
    """All versions of one repo below a folder; what is under construction lies in `.incoming/COMMIT`."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk = disk
        self.root = root

    def place(self, commit: Commit) -> Path:
        """Return where readers find a commit."""
        return self.root / commit

    def link(self, revision: str) -> Path:
        """Return the link of a revision; a slash in its name is written `%2F`."""
        return self.root / quote(revision, safe="")

    def current(self, revision: str) -> Commit | None:
        """Return the commit that readers see under a revision; None where there is none, or it is not there."""
        if is_commit(revision):
            commit = Commit(revision)
        else:
            try:
                name = str(self.link(revision).readlink())
            except OSError:
                return None
            if not is_commit(name):
                return None
            commit = Commit(name)
        return commit if self.place(commit).is_dir() else None

    def commits(self) -> list[Commit]:
        """Return the commits that lie here, whole, in no order."""
        try:
            with os.scandir(self.root) as entries:
                return [Commit(e.name) for e in entries if is_commit(e.name) and e.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def by_age(self) -> list[Commit]:
        """Return the commits that lie here, the one that came first first."""
        ages = []
        for commit in self.commits():
            with suppress(OSError):
                ages.append((self.place(commit).stat().st_mtime_ns, commit))
        return [commit for _, commit in sorted(ages)]

    def is_ours(self, commit: Commit) -> bool:
        """Return whether a run of ours put a commit here."""
        return Folder(self._disk, self.place(commit)).read_tree(commit) is not None

    def incoming(self, commit: Commit, others: Collection[Commit] = ()) -> Path:
        """Return where a commit is put together, with what a run for one that nobody wants any more left there.

        Args:
            commit: the one to put together.
            others: commits that are wanted, too: what was begun of them stays.
        """
        place = self.root / INCOMING / commit
        if place.is_dir():
            return place
        self._disk.make_dirs(place.parent)
        for other in _folders(place.parent):
            if other.name in others:
                continue
            self._disk.rename(other, place)
            return place
        return place

    def seed(self, manifest: Manifest, place: Path, wanted: Collection[RepoPath]) -> int:
        """Give `place` the files that another version has, as hard links; return how many.

        Only what the ledger of that version vouches for is taken; it also replaces what nobody vouches for here.
        """
        new = Folder(self._disk, place)
        new.begin(manifest)
        missing = [
            file for file in manifest.files if file.path in wanted and not _is_proved(new, file, place / file.path)
        ]
        linked = 0
        for commit in self.commits():
            if not missing:
                break
            if self.place(commit) == place:
                continue
            there = self._proved(commit)
            rest: list[RemoteFile] = []
            for file in missing:
                source = there.get(file.digest)
                if source is not None and self._link(source, place / file.path):
                    new.proofs.add(file.digest, (place / file.path).lstat())
                    linked += 1
                else:
                    rest.append(file)
            missing = rest
        new.proofs.flush()
        return linked

    def _proved(self, commit: Commit) -> dict[Digest, Path]:
        old = Folder(self._disk, self.place(commit))
        found: dict[Digest, Path] = {}
        for file in old.read_tree(commit) or ():
            path = old.target / file.path
            if _is_proved(old, file, path):
                found[file.digest] = path
        return found

    def _link(self, source: Path, path: Path) -> bool:
        try:
            self._disk.make_dirs(path.parent)
            if not os.path.lexists(path):
                self._disk.link(source, path)
                return True
            if os.path.samestat(source.lstat(), path.lstat()):
                return True  # it is that file already, and only the note of it was lost
            temporary = temporary_name(path.parent)
            self._disk.link(source, temporary)
            self._disk.rename(temporary, path)
        except DiskError:
            return False  # no hard links here, or too many of one file: it is fetched
        return True

    def publish(self, manifest: Manifest, place: Path, wanted: Collection[RepoPath]) -> None:
        """Let readers see a whole commit: the folder gets its name, then the link of its revision moves."""
        self._tidy(place, wanted)
        target = self.place(manifest.commit)
        if place != target:
            self._sync(place)
            self._disk.rename(place, target)
            self._disk.fsync_dir(self.root)

    def point(self, revision: str, commit: Commit) -> None:
        """Have a revision's link lead to a commit that lies here."""
        if is_commit(revision) or self.current(revision) == commit:
            return
        staging = self.root / INCOMING
        self._disk.make_dirs(staging)
        self._disk.symlink(commit, self.link(revision), staging=staging)
        self._disk.fsync_dir(self.root)

    def _tidy(self, place: Path, wanted: Collection[RepoPath]) -> None:
        """Remove what an earlier commit put here and this one does not have."""
        for path in list(_files(place)):
            if path.relative_to(place).as_posix() not in wanted:
                self._disk.unlink(path)
        for folder in _empty_folders(place):
            self._disk.remove_dir(folder)

    def _sync(self, place: Path) -> None:
        """Make names durable that were linked rather than published."""
        for folder, _, _ in os.walk(place):
            self._disk.fsync_dir(folder)

    def remove(self, commits: Collection[Commit]) -> None:
        """Remove commits that no link leads to any more; a reader that holds a file open keeps it."""
        self._sweep()
        for commit in commits:
            gone = self.root / INCOMING / f"{_GONE}{commit}"
            self._disk.make_dirs(gone.parent)
            if self.place(commit).is_dir():
                # Renamed first: a reader sees all of it or nothing.
                self._disk.rename(self.place(commit), gone)
                self._disk.remove_tree(gone)

    def _sweep(self) -> None:
        """Remove what a run that was killed had taken from readers already, and its half-made links."""
        try:
            with os.scandir(self.root / INCOMING) as entries:
                left = [Path(e.path) for e in entries if e.name.startswith(_GONE) or e.is_symlink()]
        except OSError:
            return
        for path in left:
            if path.is_symlink():
                self._disk.unlink(path, missing_ok=True)
            else:
                self._disk.remove_tree(path)

    def remove_all(self) -> None:
        """Remove the repo, links first; what else lies there (the repos of an account of its name) stays."""
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if path.is_symlink():
                self._disk.unlink(path)
        self.remove(self.commits())
        self._disk.remove_tree(self.root / INCOMING)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self._disk.remove_dir(self.root)


def _is_proved(folder: Folder, file: RemoteFile, path: Path) -> bool:
    try:
        seen = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(seen.st_mode) and seen.st_size == file.size and folder.proofs.knows(file.digest, seen)


def _folders(place: Path) -> list[Path]:
    with os.scandir(place) as entries:
        return [Path(e.path) for e in entries if is_commit(e.name) and e.is_dir(follow_symlinks=False)]


def _is_ours(folder: Path, place: Path) -> bool:
    return folder in (place / AREA_NAME, place / ".cache" / "huggingface")


def _files(place: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if not _is_ours(Path(folder) / name, place)]
        yield from (Path(folder) / name for name in names)
        yield from (Path(folder) / name for name in folders if (Path(folder) / name).is_symlink())


def _empty_folders(place: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(place, topdown=False):
        path = Path(folder)
        if path == place or any(_is_ours(parent, place) for parent in (path, *path.parents)):
            continue
        if not any(path.iterdir()):
            yield path
