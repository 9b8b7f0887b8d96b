"""How each of a mirror's layouts publishes a commit, and which commits stay; methods block."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fetchverify.core.manifest import Commit, Manifest, RepoPath, RepoRef
from fetchverify.core.mirrorstate import RepoState
from fetchverify.core.purge import PurgeOptions
from fetchverify.core.select import chooser
from fetchverify.store.disk import Disk
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.quarantine import Quarantine
from fetchverify.store.versions import Versions, folder_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to bring here: a commit, and its files that the patterns choose."""

    manifest: Manifest
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def paths(self) -> frozenset[RepoPath]:
        """The files that were asked for."""
        chosen = chooser(self.include, self.exclude)
        return frozenset(file.path for file in self.manifest.files if chosen(file.path))


class Place(Protocol):
    """Where one repo lies in a mirror."""

    @property
    def area(self) -> Path | None:
        """Our own folder, where there is one for the whole repo."""

    def current(self, revision: str) -> Commit | None:
        """Return the commit that readers see."""

    def path(self, commit: Commit) -> Path:
        """Return where they see it."""

    def mending(self, ref: RepoRef, commit: Commit) -> Path | None:
        """Return the folder in which a published commit is mended, file by file; None is the cache itself."""

    def staging(self, wanted: Wanted, others: Collection[Commit]) -> Path | None:
        """Return the folder to fetch into, filled with what lies here already; None is the cache itself."""

    def publish(self, wanted: Wanted, staging: Path | None, revision: str) -> None:
        """Let readers see what was fetched."""

    def prune(self, states: Mapping[str, RepoState], keep: int) -> None:
        """Remove what lies beyond the newest `keep` commits of each revision."""

    def remove(self) -> None:
        """Remove the repo."""


class CachePlace:
    """In the hub's cache `get` itself publishes: the ref moves when every file is there."""

    def __init__(self, disk: Disk, folder: Path, ref: RepoRef) -> None:
        self._disk = disk
        self._folder = folder
        self._name = repo_folder_name(ref.kind, ref.repo_id)
        self._cache = HubCache(disk, folder, self._name)

    @property
    def area(self) -> Path | None:
        """Our folder in the repo's."""
        return self._cache.area

    def current(self, revision: str) -> Commit | None:
        """Return the commit of the ref, where its snapshot is there."""
        commit = self._cache.read_ref(revision)
        return commit if commit is not None and self.path(commit).is_dir() else None

    def path(self, commit: Commit) -> Path:
        """Return the snapshot."""
        return self._cache.root / "snapshots" / commit

    def mending(self, ref: RepoRef, commit: Commit) -> Path | None:
        """Return None."""
        return None

    def staging(self, wanted: Wanted, others: Collection[Commit]) -> Path | None:
        """Return None: partials lie in our own folder, readers look at refs."""
        return None

    def publish(self, wanted: Wanted, staging: Path | None, revision: str) -> None:
        """Leave it to `get`, which did so."""

    def prune(self, states: Mapping[str, RepoState], keep: int) -> None:
        """Remove the snapshots beyond those, and the blobs that they alone lead to."""
        self._purge(PurgeOptions(keep_revisions=keep * len(states)))

    def remove(self) -> None:
        """Remove all snapshots, then what is left of the repo."""
        self._purge(PurgeOptions(max_size=0))
        self._disk.remove_tree(self._cache.root)

    def _purge(self, options: PurgeOptions) -> None:
        from fetchverify.commands.purging import purge

        purge(self._disk, self._folder, [self._name], options, dry_run=False, quarantine=False)


class FolderPlace:
    """Versioned folders: a commit is put together aside, gets its name whole, then the link moves."""

    def __init__(self, disk: Disk, folder: Path, ref: RepoRef) -> None:
        self._disk = disk
        self._versions = Versions(disk, folder_of(folder, ref))

    @property
    def area(self) -> Path | None:
        """Return None: each commit has its own."""
        return None

    def current(self, revision: str) -> Commit | None:
        """Return the commit to which the revision's link leads."""
        return self._versions.current(revision)

    def path(self, commit: Commit) -> Path:
        """Return the commit's folder."""
        return self._versions.place(commit)

    def mending(self, ref: RepoRef, commit: Commit) -> Path | None:
        """Return the commit's folder, with what other versions can give it."""
        place = self.path(commit)
        files = Folder(self._disk, place).read_tree(commit) or ()
        here = {file.path for file in files if (place / file.path).exists()}
        self._versions.seed(Manifest(ref=replace(ref, revision=commit), commit=commit, files=files), place, here)
        return place

    def staging(self, wanted: Wanted, others: Collection[Commit]) -> Path | None:
        """Return a folder aside, or the commit's own where it is there and only to be mended."""
        commit = wanted.manifest.commit
        place = self.path(commit) if self.path(commit).is_dir() else self._versions.incoming(commit, others)
        self._versions.seed(wanted.manifest, place, wanted.paths)
        return place

    def publish(self, wanted: Wanted, staging: Path | None, revision: str) -> None:
        """Give the folder its name, then swap the link."""
        assert staging is not None
        self._versions.publish(wanted.manifest, staging, wanted.paths)
        self._versions.point(revision, wanted.manifest.commit)

    def prune(self, states: Mapping[str, RepoState], keep: int) -> None:
        """Remove the folders of older commits; what no run of ours put there stays."""
        noted = {commit for state in states.values() for commit in state.commits}
        # Published by a run that was killed before it noted so.
        forgotten = [commit for commit in self._versions.by_age() if commit not in noted]
        ours = [commit for commit in forgotten if self._versions.is_ours(commit)]
        stay = {commit for state in states.values() for commit in (*ours, *state.commits)[-keep:]}
        stay |= {commit for revision in states if (commit := self.current(revision)) is not None}
        known = noted.union(ours)
        self._versions.remove([commit for commit in self._versions.commits() if commit in known - stay])

    def remove(self) -> None:
        """Remove links, then folders."""
        self._versions.remove_all()


def quarantined(disk: Disk, place: Place, commit: Commit | None) -> int:
    """Return how many bad copies lie in quarantine."""
    area = place.area or (None if commit is None else place.path(commit) / ".fetchverify")
    return 0 if area is None else Quarantine(disk, area).count()
