"""The model of a power cut: what it takes, what it must leave, and that its states are as many as POSIX allows."""

from __future__ import annotations

import random

from tests.crash.model import (
    FIXED,
    PAGE,
    Choice,
    Create,
    Dir,
    File,
    HardLink,
    History,
    Link,
    MakeDir,
    Operation,
    Rename,
    Resize,
    Settle,
    Symlink,
    Sync,
    SyncDir,
    Unlink,
    Write,
    pages,
    random_choice,
    surviving_bytes,
)

LOST = Choice("lost", "lost")
KEPT = Choice("kept", "kept")


def left(choice: Choice, *operations: Operation) -> dict[str, object]:
    """Return the tree as plain values: bytes of files, `-> text` of links, None for folders."""
    history = History()
    for operation in operations:
        history.apply(operation)
    return {path: plain(node) for path, node in history.after(choice).items()}


def plain(node: File | Link | Dir) -> object:
    match node:
        case File():
            return node.data
        case Link(text):
            return f"-> {text}"
        case Dir():
            return None


def all_left(*operations: Operation, rounds: int = 400) -> set[tuple[tuple[str, object], ...]]:
    rng = random.Random(1)
    choices = [*FIXED, *(random_choice(rng) for _ in range(rounds))]
    return {tuple(sorted(left(choice, *operations).items())) for choice in choices}


def test_nothing_unsynced_need_survive_and_all_of_it_may() -> None:
    operations = (Create("a", 1), Write(1, 0, b"x"), Symlink("l", "a"), MakeDir("d"))
    assert {} == left(LOST, *operations)
    assert {"a": b"x", "l": "-> a", "d": None} == left(KEPT, *operations)


def test_a_synced_file_keeps_its_bytes_but_not_its_name() -> None:
    operations = (Create("a", 1), Write(1, 0, b"x"), Sync(1))
    assert {(), (("a", b"x"),)} == all_left(*operations)
    assert {(("a", b"x"),)} == all_left(*operations, SyncDir(""))


def test_a_synced_name_does_not_keep_the_bytes() -> None:
    found = {dict(state)["a"] for state in all_left(Create("a", 1), Write(1, 0, b"xy"), SyncDir(""))}
    assert {b"", b"\0\0", b"xy"} == found


def test_a_rename_is_whole_and_either_folder_makes_it_durable() -> None:
    before = (MakeDir("d"), Create("a", 1), Write(1, 0, b"new"), Create("d/b", 2), Write(2, 0, b"old"), Settle())
    states = {(("a", b"new"), ("d", None), ("d/b", b"old")), (("d", None), ("d/b", b"new"))}
    assert states == all_left(*before, Rename("a", "d/b"))
    assert {(("d", None), ("d/b", b"new"))} == all_left(*before, Rename("a", "d/b"), SyncDir("d"))
    assert {(("d", None), ("d/b", b"new"))} == all_left(*before, Rename("a", "d/b"), SyncDir(""))


def test_a_rename_that_survives_its_creation_leaves_no_second_name() -> None:
    """The temporary folder is never synced: the file was never there, and is not now."""
    operations = (MakeDir("tmp"), MakeDir("d"), Settle(), Create("tmp/t", 1), Write(1, 0, b"x"), Sync(1))
    assert {(("d", None), ("d/b", b"x"), ("tmp", None))} == all_left(*operations, Rename("tmp/t", "d/b"), SyncDir("d"))


def test_what_lies_in_a_lost_folder_is_lost_however_synced() -> None:
    operations = (MakeDir("d"), Create("d/a", 1), Write(1, 0, b"x"), Sync(1), SyncDir("d"))
    assert {(), (("d", None), ("d/a", b"x"))} == all_left(*operations)


def test_names_may_be_lost_out_of_order_but_a_journal_keeps_the_first() -> None:
    operations = (MakeDir("a"), MakeDir("b"))
    assert (("b", None),) in all_left(*operations)
    ordered = {tuple(left(Choice("ordered", "kept", seed), *operations)) for seed in range(50)}
    assert {(), ("a",), ("a", "b")} == ordered


def test_a_folder_moves_with_what_lies_in_it() -> None:
    operations = (MakeDir("d"), Create("d/a", 1), Settle(), Rename("d", "e"), Unlink("e/a"), Unlink("e"))
    assert (("e", None), ("e/a", b"")) in all_left(*operations)
    assert (("d", None),) in all_left(*operations)
    assert () in all_left(*operations)


def test_two_names_of_one_file_have_one_content() -> None:
    operations = (Create("a", 1), HardLink("a", "b"), Write(1, 0, b"x" * PAGE * 4))
    assert all(len(set(dict(state).values())) <= 1 for state in all_left(*operations))


def test_bytes_are_torn_at_pages_only() -> None:
    pending: list[Write | Resize] = [Resize(1, 4 * PAGE), Write(1, 100, b"x" * 2 * PAGE)]
    seen = set()
    for seed in range(300):
        data = surviving_bytes(b"", pending, "torn", random.Random(seed))
        assert len(data) in (0, 4 * PAGE)
        parts = [data[start:stop] for start, stop in pages(100, 2 * PAGE)]
        assert all(part in (b"", bytes(len(part)), b"x" * len(part)) for part in parts)
        seen.add(tuple(part[:1] for part in parts))
    assert 9 == len(seen), "the length lost, or each of three pages there or not"


def test_what_was_synced_is_never_torn() -> None:
    pending = [Write(1, PAGE, b"new" + bytes(PAGE))]
    for seed in range(100):
        data = surviving_bytes(b"o" * PAGE * 3, pending, "torn", random.Random(seed))
        assert (b"o" * PAGE, b"o" * (PAGE - 3)) == (data[:PAGE], data[2 * PAGE + 3 :])


def test_a_state_is_the_same_whenever_it_is_asked_for() -> None:
    operations = (MakeDir("d"), Create("d/a", 1), Write(1, 0, b"x" * 9 * PAGE), Create("b", 2), Write(2, 0, b"y"))
    rng = random.Random(7)
    for choice in [random_choice(rng) for _ in range(20)]:
        assert left(choice, *operations) == left(choice, *operations)
