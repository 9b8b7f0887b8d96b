"""A plain folder (`--to DIR`): real files under the repo's paths, reflinked or copied, never linked to the cache."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

from fetchverify.core.leftover import Leftover
from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath
from fetchverify.core.plan import Copy, Seen
from fetchverify.core.tree import is_commit
from fetchverify.errors import DiskError
from fetchverify.store import leftovers, localdir, trees
from fetchverify.store.area import AREA_NAME, Area, real_folders
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.hublock import OnWait, hub_lock
from fetchverify.store.layout import How
from fetchverify.store.looker import Looker
from fetchverify.store.partialdirs import partial_keys, with_partial
from fetchverify.store.proofs import Proofs

_EARLIER_LISTINGS = 2  # where renamed files are looked for


class Folder:
    """A plain folder that holds one repo at one commit; implements `Layout`."""

    copies_cost_space = True

    def __init__(self, disk: Disk, directory: Path, *, cache: HubCache | None = None) -> None:
        """Look at a folder that need not exist yet.

        Args:
            disk: the door.
            directory: DIR; a symlink here is the user's own and is followed, once.
            cache: the hub's cache of the same repo, to copy from; refs of other repos are then not read.
        """
        self._disk = disk
        self._root = Path(os.path.realpath(directory))
        self._cache = cache
        self._area = Area(disk, self._root / AREA_NAME)
        self._commit: Commit | None = None

    @property
    def area(self) -> Path:
        """Our own folder in DIR."""
        return self._area.path

    @property
    def target(self) -> Path:
        """DIR."""
        return self._root

    @property
    def proofs(self) -> Proofs:
        """The ledger of what was verified in DIR."""
        return self._area.proofs

    @property
    def _hub_folder(self) -> Path:
        return self._root.joinpath(*localdir.HUB_FOLDER)

    # -- looking

    def observe(self, manifest: Manifest, files: Sequence[RemoteFile]) -> Mapping[RepoPath, Seen]:
        """Return what lies in DIR for each of `files`, and where else their bytes may be."""
        self._commit = manifest.commit
        unfinished = partial_keys(self.area)
        look = Looker(self._root, longest_name=255 - len(".metadata"))  # the hub's companion file must fit, too
        there: dict[RepoPath, os.stat_result | str | None] = {
            file.path: _ours(file.path) or look.at(file.path) for file in files
        }
        others = self._others(manifest, files, there)
        seen: dict[RepoPath, Seen] = {}
        for file in files:
            found = there[file.path]
            what = Seen(obstacle=found) if isinstance(found, str) else self._seen(file, found, others)
            if file.digest.key in unfinished:
                what = with_partial(what, self.area, file)
            seen[file.path] = what
        return seen

    def _seen(self, file: RemoteFile, found: os.stat_result | None, others: Mapping[Digest, list[str]]) -> Seen:
        published, linked = self._published(file, found)
        right = published is not None and not linked and published.size == file.size
        copies = () if right else self._copies(file, others, published if linked else None)
        # A link is not ours (the hub's client once made them, into its cache): it becomes a file.
        return Seen(published=published, linked_right=not linked, copies=copies)

    def _published(self, file: RemoteFile, found: os.stat_result | None) -> tuple[Copy | None, bool]:
        """Return what readers get at the path, and whether that is through a link."""
        path = f"{self._root}/{file.path}"
        if found is None:
            return None, False
        if stat.S_ISLNK(found.st_mode):
            return self._copy(os.path.realpath(path), file.digest), True
        return Copy(where=path, size=found.st_size, proved=self.proofs.knows(file.digest, found)), False

    def _copy(self, path: str, digest: Digest) -> Copy | None:
        try:
            found = os.lstat(path)
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Copy(where=path, size=found.st_size, proved=self.proofs.knows(digest, found))

    def _copies(self, file: RemoteFile, others: Mapping[Digest, list[str]], linked: Copy | None) -> tuple[Copy, ...]:
        found = [
            self._copy(f"{self._root}/{path}", file.digest) for path in others.get(file.digest, ()) if path != file.path
        ]
        if self._cache is not None:
            found.append(self._cache.find_blob(file.digest))
        copies = {c.where: c for c in (*found, linked) if c is not None and c.size == file.size}
        return tuple(copies.values())

    def _others(
        self,
        manifest: Manifest,
        files: Sequence[RemoteFile],
        there: Mapping[RepoPath, os.stat_result | str | None],
    ) -> dict[Digest, list[str]]:
        """Return under which other paths the digests that are missing somewhere may lie in DIR."""
        missing = {
            file.digest
            for file in files
            if not isinstance(found := there[file.path], os.stat_result) or found.st_size != file.size
        }
        others: dict[Digest, list[str]] = {}
        if not missing:
            return others
        listings: list[Iterable[RemoteFile]] = [manifest.files, *self._earlier_listings(manifest.commit)]
        for listing in listings:
            for file in listing:
                if file.digest in missing and file.path not in (paths := others.setdefault(file.digest, [])):
                    paths.append(file.path)
        look = Looker(self._root)
        return {
            digest: [p for p in paths if isinstance(look.at(p), os.stat_result)] for digest, paths in others.items()
        }

    def _earlier_listings(self, commit: str) -> list[tuple[RemoteFile, ...]]:
        try:
            with os.scandir(self._hub_folder / "trees") as entries:
                found = [(e.stat().st_mtime, e.name.removesuffix(".json")) for e in entries if e.name.endswith(".json")]
        except OSError:
            return []
        names = [name for _, name in sorted(found, reverse=True) if name != commit][:_EARLIER_LISTINGS]
        return [files for name in names if (files := self.read_tree(name)) is not None]

    def read_tree(self, commit: str) -> tuple[RemoteFile, ...] | None:
        """Return the cached listing of a commit; None where it is absent or in any way invalid."""
        return trees.read_tree(self._hub_folder, commit)

    def _ref_path(self, revision: str) -> Path:
        return self.area / "refs" / quote(revision, safe="")

    def read_ref(self, revision: str) -> Commit | None:
        """Return the commit that a finished run put here; a commit stands for itself."""
        if is_commit(revision):
            return Commit(revision)
        try:
            body = json.loads(self._ref_path(revision).read_bytes())
            if self._cache is not None and body["repo"] != self._cache.root.name:
                return None
            return trees.parse_commit(body["commit"].encode())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    # -- writing

    def begin(self, manifest: Manifest) -> None:
        """Create DIR, the hub's folder in it and ours, and store the full listing."""
        self._commit = manifest.commit
        self._area.make_dirs(self._root)
        real_folders(self._disk, self._area, self._root, (AREA_NAME,))
        self._area.prepare()
        if not (self.area / ".gitignore").exists():
            self._disk.write_file(self.area / ".gitignore", b"*", durable=False)
        folder = localdir.prepare(self._disk, self._area, self._root)
        real_folders(self._disk, self._area, folder, ("trees",))
        trees.write_tree(self._disk, folder, manifest, staging=self._area.staging)

    def lock(self, file: RemoteFile, on_wait: OnWait, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock that the hub's client holds while it downloads to this path."""
        path = localdir.lock_path(self._disk, self._area, self._root, file)
        return hub_lock(self._disk, path, on_wait, timeout_s)

    def publish_data(self, files: Sequence[RemoteFile], data: Path) -> None:
        """Give `data` the first path, and every other path a copy that shares blocks where possible."""
        # Copied while nobody but us can reach it.
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
        """Copy proved bytes to the path, sharing blocks where possible; never a hardlink."""
        copied, how = self._area.copy(Path(source.where), file.size)
        self._publish([(file, copied)])
        return how

    def _publish(self, staged: Sequence[tuple[RemoteFile, Path]]) -> None:
        if self._commit is None:
            raise ValueError("no manifest yet")
        parents: set[Path] = set()
        for file, data in staged:
            self._area.give_mode(data)
            localdir.forget(self._disk, self._area, self._root, file)
            path = self._path(file)
            self._disk.rename(data, path)
            parents.add(path.parent)
        for parent in sorted(parents):
            self._disk.fsync_dir(parent)
        for file, _ in staged:
            self.proofs.add(file.digest, self._path(file).lstat())
            localdir.remember(self._disk, self._area, self._root, file, self._commit)

    def _path(self, file: RemoteFile) -> Path:
        """Return where the file belongs; its folders exist and are no links, as of this moment."""
        why = _ours(file.path)
        if why is not None:
            raise DiskError(why)
        *folders, name = file.path.split("/")
        return real_folders(self._disk, self._area, self._root, tuple(folders)) / name

    def leftovers(self, file: RemoteFile) -> Iterable[Leftover]:
        """Return what the hub's client, or a downloader that knows no Hub, began here."""
        yield from leftovers.of_a_downloader(self._root / file.path, file)
        yield from leftovers.of_the_hubs_client((self._hub_folder / "download" / file.path).parent, file)

    def unpublish(self, file: RemoteFile) -> Path | None:
        """Return the bad file; its metadata is gone already. A link is removed, what it leads to stays.

        A file that was right at an earlier commit is not bad: it stays until the new one takes its place.
        """
        path = self._path(file)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if self.proofs.recognizes(found):
            return None
        etag = localdir.trusted_etag(self._root, file, found)
        if etag is not None and etag != file.digest.hex:
            return None
        localdir.forget(self._disk, self._area, self._root, file)
        if stat.S_ISREG(found.st_mode):
            return path
        if stat.S_ISLNK(found.st_mode):
            self._disk.unlink(path)
        return None

    def finish(self, manifest: Manifest) -> None:
        """Make folders durable, then note which commit DIR holds."""
        self._area.sync_folders()
        self._disk.fsync_dir(self._root)
        self.proofs.flush()
        revision = manifest.ref.revision
        if is_commit(revision) or self.read_ref(revision) == manifest.commit:
            return
        repo = repo_folder_name(manifest.ref.kind, manifest.ref.repo_id)
        body = {"repo": repo, "revision": revision, "commit": manifest.commit}
        self._disk.make_dirs(self._ref_path(revision).parent)
        self._disk.write_file(self._ref_path(revision), json.dumps(body).encode() + b"\n", staging=self._area.staging)


def _ours(path: str) -> str | None:
    """Return why a repo's path may not be written: it would overwrite our book-keeping or the hub's."""
    first, _, rest = path.partition("/")
    if first.casefold() == AREA_NAME or (
        first.casefold() == ".cache" and rest.casefold().split("/")[0] == "huggingface"
    ):
        return f"`{path}` lies where this folder's own book-keeping is"
    return None
