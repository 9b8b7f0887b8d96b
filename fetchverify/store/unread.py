"""Snapshots that need not be read again: their folders are as they were when every name in them was found good.

What is added to a folder, removed from it or renamed in it changes its times, and the text of a link never changes:
where a snapshot holds links alone, the states of its folders stand for all of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping

from fetchverify.core.facts import Entry, Folders, State
from fetchverify.store.owner import LOCAL_FILE_SYSTEMS
from fetchverify.store.scan import Scan, state_of
from fetchverify.store.seal import feed_states

_SECOND_NS = 1_000_000_000
# How long before the reading the last change must lie, lest a later one bears the same time: the kernel looks at its
# clock every 10 ms at the least, and some file systems keep whole seconds.
_TICK_NS, _COARSE_NS = _SECOND_NS // 10, 2 * _SECOND_NS


def tells_of_changes(kind: str) -> bool:
    """Return whether all that changes in a folder changes its times, on a file system of this kind.

    Not on one that others write to as well, nor on an overlay: of its folders only the upper layer's times are seen.
    """
    return kind in LOCAL_FILE_SYSTEMS and kind != "overlay"


def settled(
    names: Mapping[str, Entry], states: Mapping[str, State], began_ns: int, device: int | None
) -> Folders | None:
    """Return what stands for a snapshot whose file system tells of changes; None where nothing does.

    Args:
        names: what it holds.
        states: of its folders, by path below it, itself first; each was looked at before it was read.
        began_ns: Unix time, in nanoseconds, of the moment before the first of them was looked at.
        device: of that file system; a folder on another is a mount of its own, of whatever kind.
    """
    if not all(isinstance(entry, str) for entry in names.values()):
        return None
    if {state.st_dev for state in states.values()} != {device}:
        return None
    for state in states.values():
        margin_ns = _TICK_NS if state.st_ctime_ns % _SECOND_NS else _COARSE_NS
        if state.st_ctime_ns > began_ns - margin_ns:
            return None
    digest = _digest(states)
    return None if digest is None else Folders(tuple(states), digest)


def is_unchanged(snapshot: str, before: Folders) -> bool:
    """Return whether the folders of the snapshot at this path are as they were."""
    states: dict[str, State] = {}
    if before.paths[:1] != ("",):
        return False
    try:
        for path in before.paths:
            states[path] = state_of(os.lstat(f"{snapshot}/{path}" if path else snapshot))
    except (OSError, ValueError):  # a NUL in a damaged seal
        return False
    return _digest(states) == before.digest


def _digest(states: Mapping[str, State]) -> str | None:
    digest = hashlib.sha256()
    try:
        feed_states(digest, states)
    except OverflowError:
        return None
    return digest.hexdigest()


class Unread(Mapping[str, Entry]):
    """What a snapshot holds, read when somebody wants to know it."""

    def __init__(self, scan: Scan, top: str) -> None:
        self._scan = scan
        self._top = top
        self._names: Mapping[str, Entry] | None = None

    def _read(self) -> Mapping[str, Entry]:
        if self._names is None:
            self._names = self._scan.tree(self._top)
        return self._names

    def __getitem__(self, path: str) -> Entry:
        return self._read()[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())
