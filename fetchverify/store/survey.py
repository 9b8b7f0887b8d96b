"""Looks at all of a repo's cache folder, as facts to be judged: reads names and states, never a file's content.

Links are not followed, except from a blob into the cache's own shared store; what cannot be looked at is a fact, too.
`survey_store` does the shared store, `surveyfolder` plain folders. Cheap enough for 100,000 names: `scandir`, a tuple
a name.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fetchverify.core.blocks import HEADER_SIZE, RECORD_SIZE
from fetchverify.core.facts import (
    AreaFacts,
    CacheFacts,
    Entry,
    Folders,
    Linked,
    Payload,
    State,
    StoreFacts,
    Unfinished,
)
from fetchverify.core.judging.links import blob_behind
from fetchverify.core.tree import is_commit
from fetchverify.store.area import AREA_NAME, ORPHAN_S, STAGING
from fetchverify.store.lockfiles import held_locks, survey_locks
from fetchverify.store.owner import LOCAL_FILE_SYSTEMS, Life, file_system, look, myself
from fetchverify.store.scan import Scan, small_bytes, state_of
from fetchverify.store.trees import parse_commit
from fetchverify.store.unread import Unread, is_unchanged, settled, tells_of_changes

REPO_FOLDER = re.compile(r"(model|dataset|space)s--(.+)")
MARKER = ".huggingface-shared-blobs"
_FOLDERS = ("blobs", "refs", "snapshots", ".no_exist", "trees")
_IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # huggingface_hub 2.4.0 `utils/_cache_manager.py`
_LAYOUT = re.compile(rb"[0-9]+\n?")
_XET_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_REFS_BYTES = 16 << 20
_HUBS_OWN = frozenset({"blobs", "refs", "snapshots", ".no_exist", "trees", AREA_NAME})


def repo_folders(cache_dir: Path) -> list[str]:
    """Return the names of all repos' folders in a cache, sorted; links are looked through, as the hub does."""
    try:
        with os.scandir(cache_dir) as entries:
            return sorted(entry.name for entry in entries if REPO_FOLDER.fullmatch(entry.name) and entry.is_dir())
    except OSError:
        return []


def survey_cache(cache_dir: Path, folder: str, *, sealed: Mapping[str, Folders] | None = None) -> CacheFacts:
    """Return what lies in one repo's folder of a cache.

    Args:
        cache_dir: the cache.
        folder: as `repo_folders` names it.
        sealed: what stood for its snapshots, by commit, when every name in them led to a good blob.
    """
    # The folder itself may be a link of the user's own, to another disk.
    root = os.path.realpath(cache_dir / folder)
    scan = Scan(root)
    found = {entry.name: entry for entry in scan.entries("")}
    top = found.keys()
    obstacles = [name for name in _FOLDERS if name in found and _is_no_folder(found[name])]
    blobs, links, incompletes = _blobs(scan, os.path.realpath(cache_dir))
    in_snapshots = [entry for entry in scan.entries("snapshots") if entry.name not in _IGNORED]
    obstacles += sorted(f"snapshots/{entry.name}" for entry in in_snapshots if _is_no_folder(entry))
    commits = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in in_snapshots]
    kind = file_system(Path(root))
    held = [name for name, is_folder in sorted(commits) if is_folder]
    snapshots, folders = _snapshots(scan, held, (sealed or {}) if tells_of_changes(kind) else None)
    facts = CacheFacts(
        root=root,
        now=time.time(),
        # Absent altogether: somebody removed the repo this moment.
        has_snapshots=("snapshots" in top and "snapshots" not in obstacles) or not os.path.lexists(root),
        refs=_refs(scan),
        snapshots=snapshots,
        folders=folders,
        dangling=frozenset(_dangling(root, snapshots)),
        obstacles=tuple(obstacles),
        blobs=blobs,
        blob_links=links,
        incompletes=incompletes,
        trees=survey_trees(scan, "trees"),
        no_exist={entry.name: tuple(scan.tree(f".no_exist/{entry.name}")) for entry in scan.entries(".no_exist")},
        locks=survey_locks(
            cache_dir / ".locks" / folder, {name.split(".")[0] for name in incompletes}, blobs.keys() | links.keys()
        ),
        locks_exclude=kind in LOCAL_FILE_SYSTEMS,
        strange=tuple(
            sorted(
                name
                for name in [*(top - _HUBS_OWN), *(f"snapshots/{name}" for name, is_folder in commits if not is_folder)]
                if name not in obstacles
            )
        ),
        area=survey_area(scan, AREA_NAME),
        unreadable=scan.unreadable,
    )
    for name in obstacles:
        scan.unreadable.pop(name, None)
    return facts


def _snapshots(
    scan: Scan, commits: Iterable[str], sealed: Mapping[str, Folders] | None
) -> tuple[dict[str, Mapping[str, Entry]], dict[str, Folders]]:
    """Return the names in each snapshot, and what stands for them; nothing does where `sealed` is None."""
    found: dict[str, Mapping[str, Entry]] = {}
    standing: dict[str, Folders] = {}
    began_ns = time.time_ns()
    device = _device(scan.root)
    for commit in commits:
        top, unreadable = f"snapshots/{commit}", len(scan.unreadable)
        before = None if sealed is None else sealed.get(commit)
        if before is not None and is_unchanged(f"{scan.root}/{top}", before):
            found[commit], standing[commit] = Unread(scan, top), before
            continue
        states: dict[str, State] = {}
        names = found[commit] = scan.tree(top, folders=states)
        if sealed is None or len(scan.unreadable) > unreadable:
            continue
        if (now := settled(names, states, began_ns, device)) is not None:
            standing[commit] = now
    return found, standing


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev  # noqa: PTH116
    except OSError:
        return None


def _is_no_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether nobody finds a folder here, links looked through; as the hub does."""
    try:
        return not entry.is_dir()
    except OSError:
        return False


def _dangling(root: str, snapshots: Mapping[str, Mapping[str, Entry]]) -> Iterator[str]:
    """Yield the names that lead out of the repo's blobs and nowhere: the hub's tools drop a repo for one of them."""
    for commit, names in snapshots.items():
        if isinstance(names, Unread):
            continue  # all of them led to blobs when it was sealed; where it was not, all is looked at once more
        # 100,000 names have a few forms.
        forms = {
            (path.count("/"), text[: text.rfind("/") + 1], text.endswith("/"))
            for path, text in names.items()
            if isinstance(text, str)
        }
        if not any(
            ends or blob_behind(root, commit, "x/" * deep + "x", f"{way}x") is None for deep, way, ends in forms
        ):
            continue
        for path, entry in names.items():
            if isinstance(entry, str) and blob_behind(root, commit, path, entry) is None:
                key = f"snapshots/{commit}/{path}"
                if not os.path.exists(f"{root}/{key}"):  # noqa: PTH110
                    yield key


def _blobs(scan: Scan, cache_dir: str) -> tuple[dict[str, State], dict[str, Linked], dict[str, State]]:
    names: list[str] = []
    blobs = scan.states("blobs", links=names)
    links = {name: _linked(f"{scan.root}/blobs", name, cache_dir) for name in names}
    incompletes = {name: blobs.pop(name) for name in [name for name in blobs if name.endswith(".incomplete")]}
    return blobs, links, incompletes


def _linked(folder: str, name: str, cache_dir: str) -> Linked:
    try:
        text = os.readlink(f"{folder}/{name}")  # noqa: PTH115
    except OSError:
        return Linked("")
    place = posixpath.normpath(posixpath.join(folder, text))
    store, _, payload = place.rpartition("/")
    if store != f"{cache_dir}/blobs/{payload[:2]}" or not _XET_HASH.fullmatch(payload):
        return Linked(text, dangling=not os.path.exists(f"{folder}/{name}"))  # noqa: PTH110
    try:
        # A store (or a prefix) that is a link itself would lead out of the cache.
        folders_are_real = all(stat.S_ISDIR(os.lstat(path).st_mode) for path in (f"{cache_dir}/blobs", store))
        state = state_of(os.lstat(place))
    except OSError:
        return Linked(text, place)
    if not folders_are_real or stat.S_ISLNK(state.st_mode):
        return Linked(text)
    return Linked(text, place, state)


def _refs(scan: Scan) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, entry in scan.tree("refs").items():
        raw = None if isinstance(entry, str) else small_bytes(f"{scan.root}/refs/{name}", 1024)
        found[name] = None if raw is None else parse_commit(raw)
    return found


def survey_trees(scan: Scan, folder: str) -> dict[str, State]:
    """Return the states of the cached listings in a folder, by commit."""
    states = scan.states(folder)
    return {name[:40]: state for name, state in states.items() if name.endswith(".json") and is_commit(name[:-5])}


def busy(cache_dir: Path, folder: str) -> bool:
    """Return whether somebody downloads into a repo at this moment: the hub's client, or we in another process."""
    if held_locks(cache_dir, folder):
        return True
    area = survey_area(Scan(os.path.realpath(cache_dir / folder)), AREA_NAME)
    return any(one.alive for one in area.unfinished)


def survey_area(scan: Scan, name: str) -> AreaFacts:
    """Return what lies in the area `name` below the scan's root."""
    me = myself()
    unfinished = []
    for entry in scan.entries(f"{name}/partial"):
        if entry.is_dir(follow_symlinks=False):
            states = scan.states(f"{name}/partial/{entry.name}")
            journal = states["journal"].st_size if "journal" in states else 0
            data = states["data"].st_size if "data" in states else 0
            landed = min(data, max(0, journal - HEADER_SIZE) // RECORD_SIZE * (8 << 20))
            alive = look(Path(f"{scan.root}/{name}/partial/{entry.name}"), me).life is not Life.DEAD
            unfinished.append(Unfinished(entry.name, sum(s.st_size for s in states.values()), landed, alive))
    oldest_ns = (time.time() - ORPHAN_S) * 1e9
    staged = scan.states(f"{name}/{STAGING}")
    temporaries = {f"{STAGING}/{n}": state for n, state in staged.items() if state.st_mtime_ns < oldest_ns}
    quarantined = {
        n: s for n, s in scan.states(f"{name}/quarantine").items() if n[0] != "." and not n.endswith(".json")
    }
    return AreaFacts(
        unfinished=tuple(unfinished),
        temporaries=temporaries,
        cut=tuple(sorted(entry.name for entry in scan.entries(f"{name}/relink"))),
        quarantined=quarantined,
        block_maps=frozenset(entry.name for entry in scan.entries(f"{name}/blocks")),
    )


def survey_store(cache_dir: Path) -> StoreFacts:
    """Return what lies in the blob store that all repos of a cache share; nothing where there is none."""
    root = f"{os.path.realpath(cache_dir)}/blobs"
    scan = Scan(root)
    payloads: dict[str, Payload] = {}
    litter: dict[str, State] = {}
    marked = False
    for entry in scan.entries(""):
        state = scan.state(entry, "")
        if state is None:
            continue
        if entry.name == MARKER:
            # A number that we do not know is a layout to come: not ours to overwrite.
            marked = _LAYOUT.fullmatch(small_bytes(f"{root}/{MARKER}", 16) or b"") is not None
        elif stat.S_ISDIR(state.st_mode) and len(entry.name) == 2:
            for name, each in scan.states(entry.name).items():
                if name[:2] == entry.name and _XET_HASH.fullmatch(name) and stat.S_ISREG(each.st_mode):
                    payloads[name] = Payload(each, _references(f"{root}/{entry.name}/{name}.refs"))
                elif not name.endswith((".lock", ".refs", ".lock.soft")):
                    litter[f"{entry.name}/{name}"] = each
        else:
            litter[entry.name] = state
    return StoreFacts(root=root, marked=marked, payloads=payloads, litter=litter)


def _references(path: str) -> tuple[str, ...] | None:
    raw = small_bytes(path, _MOST_REFS_BYTES)
    try:
        return None if raw is None else tuple(dict.fromkeys(raw.decode().splitlines()))
    except UnicodeDecodeError:
        return None
