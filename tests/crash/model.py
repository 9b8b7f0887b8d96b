"""What a power cut may leave of a series of writes: operations in, a tree out; pure, no disk is touched.

Stricter than any one file system, as POSIX is: `fsync` of a file makes its bytes durable and not its name, `fsync` of
a folder its names and not what they lead to. Of what was not synced anything may be lost, in any order; names change
whole (a rename happened or did not), bytes by pages. Only a rename between two folders needs but one of them synced:
every journalling file system writes it in one transaction.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

PAGE = 4096
ROOT = 0

# --- operations, as a recorder sees them. Paths are relative to the recorded folder; `file` numbers one inode.


@dataclass(frozen=True, slots=True)
class MakeDir:
    path: str


@dataclass(frozen=True, slots=True)
class Create:
    path: str
    file: int


@dataclass(frozen=True, slots=True)
class Symlink:
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class HardLink:
    src: str
    dst: str


@dataclass(frozen=True, slots=True)
class Rename:
    src: str
    dst: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """Also of an empty folder."""

    path: str


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes = field(repr=False)
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Resize:
    """Longer by zeros, or shorter."""

    file: int
    size: int
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sync:
    file: int


@dataclass(frozen=True, slots=True)
class SyncDir:
    path: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Everything so far is old and durable: what lay there before the recording began."""


Bytes: TypeAlias = Write | Resize
Operation: TypeAlias = MakeDir | Create | Symlink | HardLink | Rename | Unlink | Bytes | Sync | SyncDir | Settle

# --- what is left


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of the operations that were not synced; a state is a function of a prefix and of this.

    Attributes:
        names: `ordered` keeps the first of them up to a random one, as a journal does; `any` a random subset.
        data: `zeros` keeps the length and no byte; `torn` keeps random pages and one of the lengths.
        seed: of what is random.
    """

    names: Literal["lost", "kept", "ordered", "any"]
    data: Literal["lost", "kept", "zeros", "torn"]
    seed: int = 0


KEPT = Choice("kept", "kept")  # as after a SIGKILL
FIXED = (
    Choice("lost", "lost"),
    KEPT,
    Choice("kept", "lost"),
    Choice("kept", "zeros"),
    Choice("lost", "kept"),
)


def random_choice(rng: random.Random) -> Choice:
    """Return a choice in which chance takes part."""
    names: Literal["ordered", "any"] = rng.choice(["ordered", "any"])
    return Choice(names, rng.choice(["torn", "torn", "zeros", "lost", "kept"]), rng.getrandbits(32))


class File:
    """One inode of a tree; its bytes are made when they are asked for."""

    def __init__(self, make: Callable[[], bytes], *, mtime_ns: int = 0, number: int = 0) -> None:
        self._make = make
        self._data: bytes | None = None
        self._seal: bytes | None = None
        self.mtime_ns = mtime_ns
        self.number = number

    @property
    def data(self) -> bytes:
        """The content."""
        if self._data is None:
            self._data = self._make()
        return self._data

    @property
    def seal(self) -> bytes:
        """What stands for the content where contents are compared."""
        if self._seal is None:
            self._seal = seal(self.data)
        return self._seal


def seal(data: bytes) -> bytes:
    """Return the sha256 of the bytes."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    text: str


@dataclass(frozen=True, slots=True)
class Dir:
    """A folder."""


Tree: TypeAlias = Mapping[str, File | Link | Dir]  # by path; the same `File` under two names is a hard link

# --- the machine


@dataclass(slots=True)
class _Entry:
    """One change of names; `effects` are `(folder, name, node)`, node None where the name goes."""

    effects: tuple[tuple[int, str, int | None], ...]
    durable: bool = False


@dataclass(slots=True)
class _Inode:
    number: int
    synced: bytes = b""
    pending: list[Bytes] = field(default_factory=list)
    mtime_ns: int = 0
    settled: File | None = None  # while nothing is pending: every state has the same


class History:
    """The operations so far: apply one after the other, and ask at any moment what a power cut would leave."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._live: dict[int, dict[str, int]] = {ROOT: {}}  # folders as processes see them
        self._files: dict[int, _Inode] = {}
        self._links: dict[int, str] = {}
        self._numbers: dict[int, int] = {}  # the recorder's number of a file -> node
        self._next = ROOT + 1

    def apply(self, operation: Operation) -> None:
        """Take in one more operation; one that cannot have happened raises `KeyError`."""
        match operation:
            case MakeDir(path):
                self._live[node := self._node()] = {}
                self._name((path, node))
            case Create(path, file):
                self._numbers[file] = node = self._node()
                self._files[node] = _Inode(file)
                self._name((path, node))
            case Symlink(path, text):
                self._links[node := self._node()] = text
                self._name((path, node))
            case HardLink(src, dst):
                self._name((dst, self._at(src)))
            case Rename(src, dst):
                node = self._at(src)
                self._name((src, None), (dst, node))
            case Unlink(path):
                self._at(path)
                self._name((path, None))
            case Write(file=file) | Resize(file=file):
                inode = self._files[self._numbers[file]]
                inode.pending.append(operation)
                inode.settled = None
                inode.mtime_ns = operation.mtime_ns
            case Sync(file):
                _settle(self._files[self._numbers[file]])
            case SyncDir(path):
                folder = self._at(path) if path else ROOT
                for entry in self._entries:
                    entry.durable |= any(folder == where for where, _, _ in entry.effects)
            case Settle():
                for entry in self._entries:
                    entry.durable = True
                for inode in self._files.values():
                    _settle(inode)

    def _node(self) -> int:
        self._next += 1
        return self._next

    def _folder(self, path: str) -> tuple[int, str]:
        *folders, name = path.split("/")
        here = ROOT
        for folder in folders:
            here = self._live[here][folder]
        return here, name

    def _at(self, path: str) -> int:
        folder, name = self._folder(path)
        return self._live[folder][name]

    def _name(self, *changes: tuple[str, int | None]) -> None:
        effects = tuple((*self._folder(path), node) for path, node in changes)
        for folder, name, node in effects:
            if node is None:
                del self._live[folder][name]
            else:
                self._live[folder][name] = node
        self._entries.append(_Entry(effects))

    def after(self, choice: Choice) -> Tree:
        """Return what a reader finds after a power cut now."""
        rng = random.Random(choice.seed)
        loose = [number for number, entry in enumerate(self._entries) if not entry.durable]
        kept = frozenset(_kept_names(choice, loose, rng))
        folders: dict[int, dict[str, int]] = {}
        for number, entry in enumerate(self._entries):
            if not entry.durable and number not in kept:
                continue
            for folder, name, node in entry.effects:
                names = folders.setdefault(folder, {})
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
        tree: dict[str, File | Link | Dir] = {}
        self._grow(tree, folders, ROOT, "", choice, {})
        return tree

    def _grow(
        self,
        tree: dict[str, File | Link | Dir],
        folders: Mapping[int, Mapping[str, int]],
        folder: int,
        prefix: str,
        choice: Choice,
        made: dict[int, File],
    ) -> None:
        for name, node in sorted(folders.get(folder, {}).items()):
            path = prefix + name
            if node in self._links:
                tree[path] = Link(self._links[node])
            elif node in self._files:
                if node not in made:
                    made[node] = self._file(node, choice)
                tree[path] = made[node]
            else:
                tree[path] = Dir()
                self._grow(tree, folders, node, f"{path}/", choice, made)

    def _file(self, node: int, choice: Choice) -> File:
        inode = self._files[node]
        if inode.settled is not None:
            return inode.settled
        synced, pending, seed = inode.synced, tuple(inode.pending), f"{choice.seed}/{node}"
        file = File(
            lambda: surviving_bytes(synced, pending, choice.data, random.Random(seed)),
            mtime_ns=inode.mtime_ns,  # also where the bytes are lost: a reader cannot tell by it
            number=inode.number,
        )
        if not pending:
            inode.settled = file
        return file


def _settle(inode: _Inode) -> None:
    if inode.pending:
        inode.synced = surviving_bytes(inode.synced, inode.pending, "kept", random.Random(0))
        inode.pending.clear()
        inode.settled = None


def _kept_names(choice: Choice, loose: Sequence[int], rng: random.Random) -> Sequence[int]:
    match choice.names:
        case "lost":
            return ()
        case "kept":
            return loose
        case "ordered":
            return loose[: rng.randint(0, len(loose))]
        case "any":
            share = rng.choice([0.1, 0.5, 0.9])
            return [number for number in loose if rng.random() < share]


def surviving_bytes(
    synced: bytes, pending: Sequence[Bytes], fate: Literal["lost", "kept", "zeros", "torn"], rng: random.Random
) -> bytes:
    """Return a file's bytes after a power cut.

    Args:
        synced: what the last `fsync` saw.
        pending: what was done since, in order.
        fate: as `Choice.data`.
        rng: decides which pages and which length, where the fate is `torn`.
    """
    if fate == "lost" or not pending:
        return synced
    sizes = [len(synced)]
    for change in pending:
        sizes.append(change.size if isinstance(change, Resize) else max(sizes[-1], change.offset + len(change.data)))
    size = rng.choice(sizes) if fate == "torn" else sizes[-1]
    data = bytearray(max(sizes))
    data[: len(synced)] = synced
    share = rng.choice([0.05, 0.5, 0.95])
    for change in pending:
        if isinstance(change, Resize):
            if fate == "kept" or (fate == "torn" and rng.random() < share):
                data[change.size :] = bytes(max(sizes) - change.size)
        elif fate == "kept":
            data[change.offset : change.offset + len(change.data)] = change.data
        elif fate == "torn":
            for start, stop in pages(change.offset, len(change.data)):
                if rng.random() < share:
                    data[start:stop] = change.data[start - change.offset : stop - change.offset]
    return bytes(data[:size])


def pages(offset: int, size: int) -> list[tuple[int, int]]:
    """Return the range cut at the bounds of pages."""
    cuts = [offset, *range((offset // PAGE + 1) * PAGE, offset + size, PAGE), offset + size]
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]
