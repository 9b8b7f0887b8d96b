"""A clone's work tree as a target: pointers become their content, and nothing that was changed here is touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from fetchverify.core.leftover import Leftover
from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath
from fetchverify.core.plan import Copy, Seen
from fetchverify.core.pointer import LONGEST_POINTER, parse_pointer
from fetchverify.errors import DiskError
from fetchverify.store import leftovers
from fetchverify.store.area import AREA_NAME, Area, real_folders
from fetchverify.store.clone import Clone, Entry
from fetchverify.store.disk import Disk
from fetchverify.store.hublock import OnWait, hub_lock
from fetchverify.store.layout import How
from fetchverify.store.looker import Looker
from fetchverify.store.partialdirs import landed_bytes, partial_keys
from fetchverify.store.proofs import Proofs

CHANGED = (
    "it is neither the pointer that git holds nor that pointer's content: it was changed here, and is left as it is"
)


class WorkTree:
    """The LFS files of one work tree; implements `Layout`.

    Our own folder lies in the git directory where that is on the work tree's file system, so that publishing is a
    rename and `git status` sees nothing of it; else in the work tree, ignored.
    """

    copies_cost_space = True

    def __init__(
        self,
        disk: Disk,
        clone: Clone,
        entries: Mapping[RepoPath, Entry],
        *,
        copies: Callable[[Digest], Iterable[Path]] = lambda digest: (),
        linkable: Path | None = None,
    ) -> None:
        """Look at a work tree.

        Args:
            disk: the door.
            clone: whose work tree.
            entries: the pointers that may be filled.
            copies: where a content may lie already.
            linkable: below it, contents are hardlinked and not copied.
        """
        self._disk = disk
        self._root = clone.root
        self._entries = entries
        self._elsewhere = copies
        self._linkable = linkable
        self._lfs = clone.common_dir / "lfs"
        inside = clone.git_dir.stat().st_dev == clone.root.stat().st_dev
        self._ignored = not inside
        self._area = Area(disk, clone.git_dir / "fetchverify" if inside else clone.root / AREA_NAME)

    @property
    def area(self) -> Path:
        """Our own folder."""
        return self._area.path

    @property
    def target(self) -> Path:
        """The work tree's root."""
        return self._root

    @property
    def proofs(self) -> Proofs:
        """The ledger of what was verified here."""
        return self._area.proofs

    # -- looking

    def there(self, paths: Iterable[RepoPath]) -> list[RepoPath]:
        """Return those paths that have something in the work tree: what was deleted is not brought back."""
        look = Looker(self._root)
        return [path for path in paths if look.at(path) is not None]

    def observe(self, manifest: Manifest, files: Sequence[RemoteFile]) -> Mapping[RepoPath, Seen]:
        """Return what stands at the path of each of `files`, and where else their bytes may be."""
        unfinished = partial_keys(self.area)
        look = Looker(self._root)
        seen: dict[RepoPath, Seen] = {}
        right: dict[Digest, Copy] = {}
        for file in files:
            seen[file.path] = one = self._seen(file, look.at(file.path))
            if one.published is not None and one.published.proved:
                right.setdefault(file.digest, one.published)
        for file in files:
            one = seen[file.path]
            if one.obstacle is None and one.published is None:
                landed = landed_bytes(self.area, file.digest, file.size) if file.digest.key in unfinished else 0
                seen[file.path] = Seen(copies=tuple(self._copies(file, right)), landed=landed)
        return seen

    def _seen(self, file: RemoteFile, found: os.stat_result | str | None) -> Seen:
        if isinstance(found, str):
            return Seen(obstacle=found)
        if found is None:
            return Seen(obstacle="it is not there any more")
        if not stat.S_ISREG(found.st_mode):
            return Seen(obstacle="a symbolic link stands in its place")
        if self._is_pointer(file, found):
            return Seen()
        if found.st_size != file.size:
            return Seen(obstacle=CHANGED)
        return Seen(published=self._copy(f"{self._root}/{file.path}", found, file.digest))

    def _is_pointer(self, file: RemoteFile, found: os.stat_result) -> bool:
        """Return whether a file is the pointer that git holds, as git may have written it (line ends)."""
        if found.st_size >= LONGEST_POINTER:
            return False
        entry = self._entries[file.path]
        try:
            data = Path(f"{self._root}/{file.path}").read_bytes()
        except OSError:
            return False
        return data == entry.blob or parse_pointer(data) == entry.pointer

    def _copy(self, path: str, found: os.stat_result, digest: Digest) -> Copy:
        return Copy(where=path, size=found.st_size, proved=self.proofs.knows(digest, found))

    def _copies(self, file: RemoteFile, right: Mapping[Digest, Copy]) -> Iterator[Copy]:
        if file.digest in right:
            yield right[file.digest]
        for place in self._elsewhere(file.digest):
            try:
                path = os.path.realpath(place)
                found = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_size == file.size:
                yield self._copy(path, found, file.digest)

    def read_tree(self, commit: str) -> tuple[RemoteFile, ...] | None:
        """Return None: git has the listing."""
        return None

    def read_ref(self, revision: str) -> Commit | None:
        """Return None: git has the refs."""
        return None

    # -- writing

    def begin(self, manifest: Manifest) -> None:
        """Make our own folder ready."""
        if self._ignored:
            real_folders(self._disk, self._area, self._root, (AREA_NAME,))
        self._area.prepare()
        if self._ignored and not (self.area / ".gitignore").exists():
            self._disk.write_file(self.area / ".gitignore", b"*\n", durable=False)

    def lock(self, file: RemoteFile, on_wait: OnWait, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """Hold a lock of our own: git-lfs takes none."""
        return hub_lock(self._disk, self.area / "locks" / f"{file.digest.key}.lock", on_wait, timeout_s)

    def publish_data(self, files: Sequence[RemoteFile], data: Path) -> None:
        """Give `data` the first path, and every other path a copy that shares blocks where possible."""
        copies = [(file, self._area.copy(data, data.stat().st_size)[0]) for file in files[1:]]
        self._publish([(files[0], data), *copies])

    def publish_bytes(self, file: RemoteFile, data: bytes) -> None:
        """Publish a small proved file."""
        self._publish([(file, self._area.stage(data))])

    def publish_many(self, contents: Sequence[tuple[RemoteFile, bytes]]) -> None:
        """Publish many small proved files."""
        staged = self._area.stage_many([data for _, data in contents])
        self._publish([(file, path) for (file, _), path in zip(contents, staged, strict=True)])

    def publish_copy(self, file: RemoteFile, source: Copy) -> How:
        """Copy proved bytes to the path, sharing blocks where possible; a hardlink where that was asked for."""
        if self._linkable is not None and Path(source.where).is_relative_to(self._linkable):
            linked = self._area.temporary()
            self._disk.link(source.where, linked)
            self._publish([(file, linked)])
            return "linked"
        copied, how = self._area.copy(Path(source.where), file.size)
        self._publish([(file, copied)])
        return how

    def _publish(self, staged: Sequence[tuple[RemoteFile, Path]]) -> None:
        parents: set[Path] = set()
        for file, data in staged:
            *folders, name = file.path.split("/")
            path = real_folders(self._disk, self._area, self._root, tuple(folders)) / name
            self._take_mode(file, path, data)
            self._disk.rename(data, path)
            parents.add(path.parent)
        for parent in sorted(parents):
            self._disk.fsync_dir(parent)
        for file, _ in staged:
            self.proofs.add(file.digest, (self._root / file.path).lstat())

    def _take_mode(self, file: RemoteFile, path: Path, data: Path) -> None:
        """Give `data` the permissions of the pointer that it replaces, which must still be there.

        Raises:
            DiskError: somebody changed it meanwhile.
        """
        try:
            found = path.lstat()
        except OSError as error:
            raise _meanwhile(file) from error
        if not stat.S_ISREG(found.st_mode) or not self._is_pointer(file, found):
            raise _meanwhile(file)
        if stat.S_IMODE(data.lstat().st_mode) != stat.S_IMODE(found.st_mode):
            self._disk.set_mode(data, stat.S_IMODE(found.st_mode))

    def leftovers(self, file: RemoteFile) -> Iterable[Leftover]:
        """Return the partials of git-lfs."""
        return leftovers.of_git_lfs(self._lfs, file)

    def unpublish(self, file: RemoteFile) -> Path | None:
        """Return None: what was changed here is the user's, never evidence."""
        return None

    def finish(self, manifest: Manifest) -> None:
        """Make folders and ledger durable."""
        self._area.sync_folders()
        self.proofs.flush()


def _meanwhile(file: RemoteFile) -> DiskError:
    return DiskError(
        f"`{file.path}` was changed while its content was on the way; it is left as it is",
        hint="run the same command again",
    )
