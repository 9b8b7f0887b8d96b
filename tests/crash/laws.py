"""What a reader may find at any moment, and what must be there at the end; pure, over a tree.

Bytes that lay there before a run began are the one thing it may not be blamed for: `before` names them.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fetchverify.core.blocks import BLOCK_SIZE, Tiling, decode_journal
from fetchverify.core.manifest import Digest
from tests.crash.model import Dir, File, Link, Tree, seal

Problems: TypeAlias = list[str]
_BLOB = re.compile(r"(^|/)(models|datasets|spaces)--[^/]+/blobs/([0-9a-f]{40}|[0-9a-f]{64})$")
LISTING = ".cache/huggingface/download"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the Hub promises: the commit that `ref` stands for, and its files' bytes.

    Attributes:
        lfs: the paths whose digest is sha256; the others' is git's.
        before: seals of bytes, by path below the target, that a reader may see instead because they lay there before.
    """

    commit: str
    files: Mapping[str, bytes]
    lfs: frozenset[str]
    ref: str = "main"
    before: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    seals: dict[str, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.seals.update({path: seal(data) for path, data in self.files.items()})

    def allows(self, file: File, path: str, spot: str) -> bool:
        """Return True where a reader of `spot` may get this file for `path`."""
        return file.seal == self.seals.get(path) or file.seal in self.before.get(spot, ())

    def digest(self, path: str) -> Digest:
        """Return the file's digest."""
        return digest_of(self.files[path], lfs=path in self.lfs)


def digest_of(data: bytes, *, lfs: bool) -> Digest:
    """Return the digest that the Hub gives these bytes."""
    if lfs:
        return Digest(algo="sha256", hex=hashlib.sha256(data).hexdigest())
    return Digest(algo="git-sha1", hex=hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def is_named(file: File, name: str) -> bool:
    """Return True where a blob of this name may have these bytes."""
    if len(name) == 64:
        return file.seal.hex() == name
    return digest_of(file.data, lfs=False).hex == name


def below(tree: Tree, prefix: str) -> Iterator[tuple[str, File | Link | Dir]]:
    """Yield what lies below a folder, under paths relative to it."""
    for path, node in tree.items():
        if path.startswith(prefix + "/"):
            yield path[len(prefix) + 1 :], node


def leads_to(tree: Tree, path: str) -> File | Dir | None:
    """Return what a reader who opens `path` gets; None where there is nothing."""
    for _ in range(40):
        node = tree.get(path)
        if not isinstance(node, Link):
            return node
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), node.text))
    return None


def cache_problems(tree: Tree, root: str, promise: Promise) -> Problems:
    """Return where a reader of the hub's cache could be misled; `root` is the repo's folder.

    Every blob is whole, every link has its blob, every ref its snapshot with all that was promised, and no snapshot
    is there without the listing that tells a part from the whole.
    """
    problems: Problems = []
    for name, node in below(tree, f"{root}/blobs"):
        if not isinstance(node, File) or not (
            is_named(node, name) or node.seal in promise.before.get(f"blobs/{name}", ())
        ):
            problems.append(f"blob {name} is not what its name says")
    shown: dict[str, set[str]] = {}
    for path, node in below(tree, f"{root}/snapshots"):
        if isinstance(node, Dir):
            continue
        commit, _, name = path.partition("/")
        shown.setdefault(commit, set()).add(name)
        found = leads_to(tree, f"{root}/snapshots/{path}")
        if not isinstance(found, File):
            problems.append(f"link {path} leads nowhere")
        elif commit == promise.commit and not promise.allows(found, name, f"snapshots/{path}"):
            problems.append(f"a reader of {path} gets other bytes than were promised")
    for commit in shown:
        listing = tree.get(f"{root}/trees/{commit}.json")
        if not isinstance(listing, File) or not listing.data.endswith(b"}"):
            problems.append(f"snapshot {commit} is there without its listing")
    for name, node in below(tree, f"{root}/refs"):
        if isinstance(node, File):
            commit = node.data.decode("ascii", "replace")
            there = f"{root}/snapshots/{commit}" in tree
            absent = set(promise.files) - shown.get(commit, set())
            # What lay there rotten may be gone while it is fetched again: the listing says that it is missing.
            excused = {path for path in absent if f"snapshots/{commit}/{path}" in promise.before}
            if not there or (commit == promise.commit and absent != excused):
                problems.append(f"ref {name} is {commit!r}, whose snapshot is not whole")
    return problems


def missing_from_cache(tree: Tree, root: str, promise: Promise) -> Problems:
    """Return what a finished run owes: every file in the snapshot, and the ref."""
    problems = [
        f"{path} is not in the snapshot"
        for path in promise.files
        if not isinstance(found := leads_to(tree, f"{root}/snapshots/{promise.commit}/{path}"), File)
        or found.seal != promise.seals[path]
    ]
    ref = tree.get(f"{root}/refs/{promise.ref}")
    if not isinstance(ref, File) or ref.data != promise.commit.encode():
        problems.append(f"ref {promise.ref} is not the commit")
    return problems


def folder_problems(tree: Tree, root: str, promise: Promise) -> Problems:
    """Return where a reader of a plain folder could be misled: by the files, or by the hub's notes on them."""
    problems: Problems = []
    for path in promise.files:
        found = tree.get(f"{root}/{path}")
        if isinstance(found, Link | Dir) or (found is not None and not promise.allows(found, path, path)):
            problems.append(f"a reader of {path} gets other bytes than were promised")
        note = tree.get(f"{root}/{LISTING}/{path}.metadata")
        if isinstance(found, File) and isinstance(note, File):
            lines = note.data.decode("utf-8", "replace").splitlines()
            trusted = len(lines) == 3 and _is_after(lines[2], found.mtime_ns)
            if trusted and not is_named(found, lines[1]):
                problems.append(f"the hub's note on {path} speaks of other bytes")
    return problems


def _is_after(text: str, mtime_ns: int) -> bool:
    try:
        return float(text) >= mtime_ns / 1e9 - 1  # Source: huggingface_hub 2.4.0 `_local_folder.py`
    except ValueError:
        return False


def version_problems(tree: Tree, root: str, promise: Promise, earlier: Mapping[str, bytes]) -> Problems:
    """Return where a reader of a mirror's versioned folders could be misled: a commit that has its name is whole.

    Args:
        tree: what lies there.
        root: the repo's folder.
        promise: of the newest commit.
        earlier: the files of the one before.
    """
    problems: Problems = []
    commits = {name.split("/")[0] for name, _ in below(tree, root)} - {".incoming", "main"}
    for commit in commits:
        files = promise.files if commit == promise.commit else earlier
        for path, data in files.items():
            found = tree.get(f"{root}/{commit}/{path}")
            if not isinstance(found, File) or found.data != data:
                problems.append(f"a reader of {path} in {commit[:8]} gets other bytes than were promised")
    if f"{root}/main" in tree and not isinstance(leads_to(tree, f"{root}/main"), Dir):
        problems.append("the link of a revision leads nowhere")
    return problems


def missing_from_folder(tree: Tree, root: str, promise: Promise) -> Problems:
    """Return what a finished run owes: every file, under its own name."""
    return [
        f"{path} is not in the folder"
        for path in promise.files
        if not isinstance(found := tree.get(f"{root}/{path}"), File) or found.seal != promise.seals[path]
    ]


def unproved_bytes(tree: Tree) -> int:
    """Return the bytes that lie in any cache under a digest that is not theirs."""
    return sum(len(node.data) for _, node in _unproved(tree))


def _unproved(tree: Tree) -> Iterator[tuple[str, File]]:
    for path, node in tree.items():
        if isinstance(node, File) and _BLOB.search(path) and not is_named(node, path.rpartition("/")[2]):
            yield path, node


def newly_unproved_bytes(tree: Tree, promise: Promise, folder: str | None) -> int:
    """Return the bytes that a run published and that are not what was promised, in the cache and in `folder`."""
    bad = {node.seal: len(node.data) for _, node in _unproved(tree)}
    for path in promise.files if folder is not None else ():
        found = tree.get(f"{folder}/{path}")
        if isinstance(found, File) and not promise.allows(found, path, path):
            bad[found.seal] = len(found.data)
    for seals in promise.before.values():
        for one in seals:
            bad.pop(one, None)
    return sum(bad.values())


def still_to_fetch(tree: Tree, area: str, promise: Promise, path: str) -> int:
    """Return the bytes of a file that no right block in the area spares; what a resumed run may fetch at most."""
    data, key = promise.files[path], promise.digest(path).key
    tiling = Tiling(size=len(data), block_size=BLOCK_SIZE)
    kept, journal = tree.get(f"{area}/partial/{key}/data"), tree.get(f"{area}/partial/{key}/journal")
    if not isinstance(kept, File) or not isinstance(journal, File) or len(kept.data) != len(data):
        return len(data)
    vouched = decode_journal(journal.data, tiling, key)[0].hashes
    blocks = (tiling.block(index) for index in vouched)
    right = (len(b) for b in blocks if kept.data[b.start : b.stop] == data[b.start : b.stop])
    return len(data) - sum(right)
