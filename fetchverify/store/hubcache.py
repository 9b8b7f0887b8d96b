"""The hub's cache layout of one repo: blobs by digest, snapshots of links, refs; every reader of it stays safe."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from fetchverify.core.leftover import Leftover
from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoKind, RepoPath
from fetchverify.core.plan import NOTHING, Copy, Seen
from fetchverify.core.tree import is_commit
from fetchverify.errors import UntrustedMetadataError
from fetchverify.store import leftovers, relink, sharedblobs, trees
from fetchverify.store.area import AREA_NAME, CACHEDIR_TAG, Area, real_folders
from fetchverify.store.disk import Disk
from fetchverify.store.hublock import OnWait, hub_lock
from fetchverify.store.layout import How
from fetchverify.store.looker import SHORT, Looker
from fetchverify.store.partialdirs import partial_keys, with_partial
from fetchverify.store.proofs import Proofs


def repo_folder_name(kind: RepoKind, repo_id: str) -> str:
    """Return the folder of a repo in the hub's cache, `models--org--name`."""
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(trees.is_safe_path(part) and "--" not in part for part in parts):
        raise UntrustedMetadataError(f"`{repo_id}` is not a repo's name")
    return "--".join([f"{kind}s", *parts])


_MANY = 1000  # files for which the folder of blobs is listed rather than each of them looked up


class HubCache:
    """One repo in the hub's cache; implements `Layout`.

    Attributes:
        root: the repo's folder, `models--org--name`.
        cache_dir: the cache's folder.
    """

    copies_cost_space = False

    def __init__(self, disk: Disk, cache_dir: Path, folder_name: str) -> None:
        self.cache_dir = cache_dir.absolute()
        self.root = self.cache_dir / folder_name
        self._disk = disk
        self._blobs = f"{self.root}/blobs/"
        self._area = Area(disk, self.root / AREA_NAME)
        self._commit: Commit | None = None

    @classmethod
    def for_repo(cls, disk: Disk, cache_dir: Path, kind: RepoKind, repo_id: str) -> HubCache:
        """Return the repo's part of a cache; nothing need exist yet."""
        return cls(disk, cache_dir, repo_folder_name(kind, repo_id))

    @property
    def area(self) -> Path:
        """Our own folder; the hub's scanner does not see it there."""
        return self._area.path

    @property
    def proofs(self) -> Proofs:
        """The ledger of what was verified in this repo."""
        return self._area.proofs

    @property
    def target(self) -> Path:
        """The snapshot folder of the manifest that was observed or begun last."""
        if self._commit is None:
            raise ValueError("no manifest yet")
        return self.root / "snapshots" / self._commit

    def blob(self, digest: Digest) -> Path:
        """Return the blob's path: the hub names it by the ETag, which is the digest."""
        return self.root / "blobs" / digest.hex

    # -- looking

    def observe(self, manifest: Manifest, files: Sequence[RemoteFile]) -> Mapping[RepoPath, Seen]:
        """Return what lies in the cache for each of `files`."""
        self._commit = manifest.commit
        unfinished = partial_keys(self.area)
        look = Looker(self.target)
        target = str(self.target)
        blobs = self._blob_names() if len(files) > _MANY else None
        shared = sharedblobs.is_there(self.cache_dir)
        if not (blobs is None or blobs or shared or unfinished or os.path.lexists(target)):
            files = [file for file in files if len(file.path) > SHORT]  # nothing is here; a name can still be too long
        seen: dict[RepoPath, Seen] = {}
        for file in files:
            found = look.at(file.path)
            if isinstance(found, str):
                what = Seen(obstacle=found)
            elif found is not None or blobs is None or file.digest.hex in blobs or shared:
                what = self._seen(file, f"{target}/{file.path}", found)
            elif file.digest.key in unfinished:
                what = NOTHING
            else:
                continue  # of 100,000 files that are not here nothing is said
            seen[file.path] = with_partial(what, self.area, file) if file.digest.key in unfinished else what
        return seen

    def _blob_names(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self._blobs))  # noqa: PTH208 - names, not paths
        except OSError:
            return frozenset()

    def _seen(self, file: RemoteFile, path: str, found: os.stat_result | None) -> Seen:
        blob = self._blobs + file.digest.hex
        published: Copy | None = None
        linked_right = True
        if found is not None and stat.S_ISREG(found.st_mode):  # a hardlink or copy, where symlinks are not to be had
            published = Copy(where=path, size=found.st_size, proved=self.proofs.knows(file.digest, found))
        elif found is not None:
            linked_right = relink.leads_to(path, blob)
            published = self.find_blob(file.digest) if linked_right else self._behind(path, file.digest)
        if published is not None and published.where == blob:
            return Seen(published=published, linked_right=linked_right)
        others = (self.find_blob(file.digest), sharedblobs.find(self.cache_dir, file, self.proofs))
        copies = {copy.where: copy for copy in others if copy is not None}
        if published is not None:
            copies.pop(published.where, None)
        return Seen(published=published, linked_right=linked_right, copies=tuple(copies.values()))

    def _behind(self, path: str, digest: Digest) -> Copy | None:
        """Return the bytes to which a link leads that is not the one we would make."""
        where = os.path.realpath(path)
        try:
            found = os.lstat(where)
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return Copy(where=where, size=found.st_size, proved=self.proofs.knows(digest, found))

    def find_blob(self, digest: Digest) -> Copy | None:
        """Return the blob's bytes, links followed; None where there is none."""
        path = self._blobs + digest.hex
        try:
            found = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISREG(found.st_mode):
            return Copy(where=path, size=found.st_size, proved=self.proofs.knows(digest, found))
        return self._behind(path, digest) if stat.S_ISLNK(found.st_mode) else None

    def read_tree(self, commit: str) -> tuple[RemoteFile, ...] | None:
        """Return the cached listing of a commit; None where it is absent or in any way invalid."""
        return trees.read_tree(self.root, commit)

    def read_ref(self, revision: str) -> Commit | None:
        """Return the commit that the ref names; a commit stands for itself."""
        if is_commit(revision):
            return Commit(revision)
        parts = trees.ref_parts(revision)
        if parts is None:
            return None
        try:
            return trees.parse_commit(self.root.joinpath("refs", *parts).read_bytes())
        except OSError:
            return None

    # -- writing

    def begin(self, manifest: Manifest) -> None:
        """Create the repo's folders, the cache's tag and the full listing."""
        self._commit = manifest.commit
        # `snapshots` first: a repo folder without it is a corrupted repo to the hub's scanner.
        self._area.make_dirs(self.root / "snapshots")
        self._area.make_dirs(self.root / "blobs")
        self._area.prepare()
        tag = self.cache_dir / "CACHEDIR.TAG"
        if not tag.exists():
            self._disk.write_file(tag, CACHEDIR_TAG.encode(), staging=self._area.staging, durable=False)
        trees.write_tree(self._disk, self.root, manifest, staging=self._area.staging)
        self._area.soil(self.root)
        self._area.soil(self.cache_dir)
        relink.mend(self._disk, self._area, self.root)
        self._area.sync_folders()

    def lock(self, file: RemoteFile, on_wait: OnWait, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock that the hub's client holds for its whole download of this blob."""
        return self.lock_name(file.digest.hex, on_wait, timeout_s)

    def lock_name(
        self, name: str, on_wait: OnWait = lambda what, waited_s: None, timeout_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold the hub client's lock of the blob called `name`."""
        path = self.cache_dir / ".locks" / self.root.name / f"{name}.lock"
        return hub_lock(self._disk, path, on_wait, timeout_s)

    def publish_data(self, files: Sequence[RemoteFile], data: Path) -> None:
        """Make `data` the blob, and link every path of `files` to it."""
        self._publish_blobs([(files, data)])

    def publish_bytes(self, file: RemoteFile, data: bytes) -> None:
        """Publish a small proved file."""
        self._publish_blobs([([file], self._area.stage(data))])

    def publish_many(self, contents: Sequence[tuple[RemoteFile, bytes]]) -> None:
        """Publish many small proved files; those of one digest share a blob."""
        groups: dict[Digest, tuple[list[RemoteFile], bytes]] = {}
        for file, data in contents:
            groups.setdefault(file.digest, ([], data))[0].append(file)
        staged = self._area.stage_many([data for _, data in groups.values()])
        self._publish_blobs([(files, path) for (files, _), path in zip(groups.values(), staged, strict=True)])

    def _publish_blobs(self, blobs: Sequence[tuple[Sequence[RemoteFile], Path]]) -> None:
        for files, data in blobs:
            self._area.give_mode(data)
            # Whatever has this name (also a link into the shared store) is replaced, never written through.
            self._disk.rename(data, self.blob(files[0].digest))
        # A link must not survive a power cut that its blob did not.
        self._disk.fsync_dir(self.root / "blobs")
        for files, _ in blobs:
            for file in files:
                self._link(file)
            relink.restore(self._disk, self._area, self.root, files[0].digest)
            self.proofs.add(files[0].digest, self.blob(files[0].digest).stat())

    def publish_copy(self, file: RemoteFile, source: Copy) -> How:
        """Link the path to the blob; bytes that lie elsewhere become the blob first."""
        blob = self.blob(file.digest)
        if os.path.realpath(blob) == os.path.realpath(source.where):
            # Whoever wrote it may not have synced it.
            self._disk.fsync_path(blob)
            self._disk.fsync_dir(blob.parent)
            self._link(file)
            relink.restore(self._disk, self._area, self.root, file.digest)
            return "linked"
        if sharedblobs.link(self.cache_dir, blob, file, source):
            self._disk.fsync_path(blob)
            self._disk.fsync_dir(blob.parent)
            self._link(file)
            return "linked"
        copied, how = self._area.copy(Path(source.where), file.size)
        self._publish_blobs([([file], copied)])
        return how

    def _link(self, file: RemoteFile) -> None:
        *folders, name = file.path.split("/")
        parent = real_folders(self._disk, self._area, self.root, ("snapshots", self.target.name, *folders))
        relink.link_to_blob(self._disk, self._area, parent / name, self.blob(file.digest), depth=2 + len(folders))

    def leftovers(self, file: RemoteFile) -> Iterable[Leftover]:
        """Return the partials of the hub's client."""
        return leftovers.of_the_hubs_client(self.root / "blobs", file)

    def unpublish(self, file: RemoteFile) -> Path | None:
        """Remove the links to a bad blob, in all snapshots, and return the blob."""
        pointer = self.target.joinpath(*file.path.split("/"))
        blob = self.blob(file.digest)
        found = self.find_blob(file.digest)
        if pointer.is_symlink() and not relink.leads_to(pointer, blob):
            self._disk.unlink(pointer, missing_ok=True)  # it led to another file, whose bytes may be right
            self._area.soil(pointer.parent)
        elif pointer.is_file() and not pointer.is_symlink() and not _same(pointer, blob):
            return (
                None if self.proofs.knows(file.digest, pointer.lstat()) else pointer
            )  # a copy, where links are not to be had
        if found is not None and found.proved:
            return None
        if os.path.lexists(blob):
            relink.cut(self._disk, self._area, self.root, file.digest)
        if blob.is_symlink():
            self._disk.unlink(blob, missing_ok=True)  # the payload is shared with other repos: not ours to move
            self._area.soil(blob.parent)
            return None
        return blob if blob.exists() else None

    def finish(self, manifest: Manifest) -> None:
        """Make links and folders durable, then let the ref move."""
        real_folders(self._disk, self._area, self.root, ("snapshots", manifest.commit))
        self._area.soil(self.root / "snapshots")
        self._area.sync_folders()
        self.proofs.flush()
        revision = manifest.ref.revision
        if is_commit(revision) or self.read_ref(revision) == manifest.commit:
            return
        parts = trees.ref_parts(revision)
        if parts is None:
            raise UntrustedMetadataError(f"`{revision}` cannot be the name of a revision")
        folder = real_folders(self._disk, self._area, self.root, ("refs", *parts[:-1]))
        # Staged elsewhere: the hub's scanner takes every file below `refs` for a ref.
        self._disk.write_file(folder / parts[-1], manifest.commit.encode(), staging=self._area.staging)
        self._area.sync_folders()


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.stat(), other.stat())
    except OSError:
        return False
