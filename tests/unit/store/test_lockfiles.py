"""Lock files of the hub's client: which are looked at, and which are held."""

from __future__ import annotations

import fcntl
from pathlib import Path

from fetchverify.store.lockfiles import held_locks, survey_locks
from tests.damage import aged

HERE, UNDER_WAY, GONE = "aa" * 32, "bb" * 32, "cc" * 32


def locks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for etag in (HERE, UNDER_WAY, GONE):
        (folder / f"{etag}.lock").touch()
        aged(folder / f"{etag}.lock")
    return folder


def test_those_of_blobs_that_are_here_are_not_looked_at(tmp_path: Path) -> None:
    """The hub's client leaves one for each: 100,000 of them are no litter."""
    folder = locks(tmp_path / "locks")
    found = survey_locks(folder, {UNDER_WAY}, {HERE, UNDER_WAY})
    assert {f"{UNDER_WAY}.lock", f"{GONE}.lock"} == set(found)
    assert not any(lock.held for lock in found.values())


def test_the_one_that_somebody_holds_is_told(tmp_path: Path) -> None:
    folder = locks(tmp_path / ".locks" / "models--org--name")
    with (folder / f"{GONE}.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert survey_locks(folder, (), ())[f"{GONE}.lock"].held
        assert {f"{GONE}.lock"} == held_locks(tmp_path, "models--org--name")
    assert not held_locks(tmp_path, "models--org--name")
