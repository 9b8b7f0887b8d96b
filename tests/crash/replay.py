"""Plays a recorded command up to any operation, cuts the power, and puts what is left on a disk to go on from."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from tests.crash.model import FIXED, Choice, Dir, File, History, Link, Operation, Settle, Tree, random_choice
from tests.crash.recorder import RecordingDisk

_OTHER_BOOT = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What one power cut leaves: after `done` operations, with `choice` for what was not synced."""

    done: int
    choice: Choice
    tree: Tree

    def __str__(self) -> str:
        return f"after {self.done} operations, {self.choice}"


def states(operations: Sequence[Operation], rng: random.Random, *, chances: int) -> Iterator[State]:
    """Yield, for every prefix, the fixed choices and `chances` random ones."""
    history, begun = History(), False
    for done, operation in enumerate(operations, 1):
        history.apply(operation)
        begun |= isinstance(operation, Settle)
        if not begun:
            continue
        for choice in (*FIXED, *(random_choice(rng) for _ in range(chances))):
            yield State(done=done, choice=choice, tree=history.after(choice))


def final(operations: Sequence[Operation]) -> Callable[[Choice], State]:
    """Return what tells the state that a power cut after the last operation leaves."""
    history = History()
    for operation in operations:
        history.apply(operation)
    return lambda choice: State(done=len(operations), choice=choice, tree=history.after(choice))


def put(state: State, place: Path, disk: RecordingDisk) -> None:
    """Make the tree in an empty folder, as the machine would find it after its next boot.

    Its inodes are others than those that were recorded, and this very process, which may still run, is the one
    that was recorded: the ledger is made to speak of the new inodes, the partials' owners of another boot.
    """
    inodes: dict[int, os.stat_result] = {}
    made: dict[int, Path] = {}
    ledgers: list[Path] = []
    for name, node in state.tree.items():
        path = place / name
        match node:
            case Dir():
                path.mkdir()
            case Link(text):
                path.symlink_to(text)
            case File() if node.number in made:
                path.hardlink_to(made[node.number])
            case File():
                made[node.number] = path
                path.write_bytes(_after_boot(path, node.data))
                os.utime(path, ns=(node.mtime_ns, node.mtime_ns))
                inodes[disk.inode_of[node.number]] = path.stat()  # numbers rise: the last to have an inode wins
                if path.name == "proofs":
                    ledgers.append(path)
    for path in ledgers:
        path.write_bytes(_moved(path.read_bytes(), inodes))


def _after_boot(path: Path, data: bytes) -> bytes:
    if path.parent.parent.name != "partial" or not data.startswith(b'{"boot"'):
        return data
    try:
        return json.dumps({**json.loads(data), "boot": _OTHER_BOOT}).encode() + b"\n"
    except ValueError:  # torn
        return data


def _moved(ledger: bytes, inodes: dict[int, os.stat_result]) -> bytes:
    """Return the ledger for the inodes that stand for the recorded ones; torn lines stay as they are."""
    lines = ledger.split(b"\n")
    for number, line in enumerate(lines):
        seal, _, body = line.partition(b" ")
        if xxhash.xxh3_64_hexdigest(body).encode() != seal:
            continue
        algo, value, _, inode, *rest = body.decode().split(" ")
        found = inodes.get(int(inode))
        device, there = (found.st_dev, found.st_ino) if found is not None else (0, 0)
        body = " ".join([algo, value, str(device), str(there), *rest]).encode()
        lines[number] = xxhash.xxh3_64_hexdigest(body).encode() + b" " + body
    return b"\n".join(lines)
