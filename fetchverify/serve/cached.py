"""A mirror in the layout of the hub's cache: `models--org--name/{blobs,refs,snapshots,trees}`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from fetchverify.core.hubroute import is_repo_id
from fetchverify.core.manifest import Commit, RemoteFile, RepoKind
from fetchverify.core.paths import check_files, check_path
from fetchverify.core.tree import file_from_headers, is_commit
from fetchverify.errors import UntrustedMetadataError
from fetchverify.serve.listings import Listings
from fetchverify.serve.mirror import Listing
from fetchverify.serve.records import Held, Records, Why, judged
from fetchverify.store import trees
from fetchverify.store.area import AREA_NAME
from fetchverify.store.beneath import open_beneath, read_beneath
from fetchverify.store.hubcache import repo_folder_name

_PAYLOAD = re.compile(r"(?:\.\./)+blobs/([0-9a-f]{2})/([0-9a-f]{64})")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_REF_BYTES = 64


class CacheMirror:
    """A folder that is, or could be, `HF_HUB_CACHE`; implements `Mirror`."""

    def __init__(self, root: Path, *, only_proved: bool = False) -> None:
        """Serve a cache; with `only_proved` nothing that our records do not vouch for."""
        self.root = Path(os.path.realpath(root))
        self._records = Records()
        self._listings = Listings()
        self._only_proved = only_proved

    def repo(self, kind: RepoKind, repo_id: str) -> CachedRepo | None:
        """Return a repo; a link in its place is none."""
        folder = repo_folder_name(kind, repo_id)
        try:
            # `snapshots` as for the hub's scanner: without it this is a stranger's folder, or half a repo.
            if not stat.S_ISDIR(os.lstat(f"{self.root}/{folder}").st_mode):
                return None
            if not stat.S_ISDIR(os.lstat(f"{self.root}/{folder}/snapshots").st_mode):
                return None
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        return CachedRepo(self.root, folder, self._records, self._listings, only_proved=self._only_proved)

    def names(self, kind: RepoKind) -> Sequence[str]:
        """Return the names of all repos of a kind, sorted."""
        start = f"{kind}s--"
        with os.scandir(self.root) as entries:
            found = [
                entry.name[len(start) :].replace("--", "/")
                for entry in entries
                if entry.name.startswith(start) and entry.is_dir(follow_symlinks=False)
            ]
        return sorted(name for name in found if is_repo_id(name))


class CachedRepo:
    """One repo of the hub's cache; implements `Repo`."""

    def __init__(self, root: Path, folder: str, records: Records, listings: Listings, *, only_proved: bool) -> None:
        self._root = root
        self._folder = folder
        self._path = f"{root}/{folder}"
        self._records = records
        self._listings = listings
        self._only_proved = only_proved

    def commit(self, revision: str) -> Commit | None:
        """Return the commit of a ref; a commit stands for itself, where anything of it lies here."""
        if is_commit(revision):
            known = (f"{self._path}/trees/{revision}.json", f"{self._path}/snapshots/{revision}")
            return Commit(revision) if any(os.path.lexists(path) for path in known) else None
        parts = trees.ref_parts(revision)
        if parts is None:
            return None
        raw = read_beneath(self._root, (self._folder, "refs", *parts), most=_MOST_REF_BYTES)
        return None if raw is None else trees.parse_commit(raw)

    def refs(self) -> Mapping[str, Commit]:
        """Return all refs that name a commit."""
        found: dict[str, Commit] = {}
        top = f"{self._path}/refs"
        for folder, _, names in os.walk(top):
            for name in names:
                revision = os.path.relpath(f"{folder}/{name}", top)
                commit = self.commit(revision)
                if commit is not None:
                    found[revision] = commit
        return found

    def listing(self, commit: Commit) -> Listing | None:
        """Return the hub's cached listing; without one, as older clients leave it, what the snapshot links to."""
        found = self._listings.get(
            f"{self._path}/trees/{commit}.json", commit, lambda: trees.read_tree(Path(self._path), commit)
        )
        return found if found is not None else self._linked(commit)

    def _linked(self, commit: Commit) -> Listing | None:
        top = f"{self._path}/snapshots/{commit}"
        files: dict[str, RemoteFile] = {}
        for folder, _, names in os.walk(top):
            for name in names:
                link = f"{folder}/{name}"
                file = self._behind(link, os.path.relpath(link, top))
                if file is not None:
                    files[file.path] = file
        try:
            check_files(files.values())
        except UntrustedMetadataError:
            return None
        return Listing(commit=commit, files=files) if files else None

    def _behind(self, link: str, path: str) -> RemoteFile | None:
        """Return a file as its link tells: the blob's name is the digest, its length the size."""
        try:
            target = os.readlink(link)  # noqa: PTH115  # the text, as it is
            name = target.rpartition("/")[2]
            if _DIGEST.fullmatch(name) is None or os.path.normpath(f"{link.rpartition('/')[0]}/{target}") != (
                f"{self._path}/blobs/{name}"
            ):
                return None
            size = Path(f"{self._path}/blobs/{name}").stat().st_size
            return file_from_headers(check_path(path), {"etag": name, "content-length": str(size)}, redirected=False)
        except (OSError, UntrustedMetadataError):
            return None

    def hold(self, commit: Commit, file: RemoteFile) -> Held | Why:
        """Open the blob; where there is none, the snapshot's own file, as on disks without links."""
        opened = self._open(commit, file)
        if opened is None:
            return "absent"
        return judged(self._records, (f"{self._path}/{AREA_NAME}",), file, *opened, only_proved=self._only_proved)

    def _open(self, commit: Commit, file: RemoteFile) -> tuple[int, os.stat_result] | None:
        name = file.digest.hex
        opened = open_beneath(self._root, (self._folder, "blobs", name))
        if opened is not None:
            return opened
        try:
            payload = _PAYLOAD.fullmatch(str(Path(f"{self._path}/blobs/{name}").readlink()))
        except OSError:
            return open_beneath(self._root, (self._folder, "snapshots", commit, *file.path.split("/")))
        # The hub's shared store: the one place to which a blob may be a link.
        return None if payload is None else open_beneath(self._root, ("blobs", payload[1], payload[2]))
