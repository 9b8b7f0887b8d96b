"""What may stand for a snapshot: folders that hold links alone and whose last change is long enough ago."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from fetchverify.core.facts import Entry, State
from fetchverify.store.scan import Scan
from fetchverify.store.survey import survey_cache
from fetchverify.store.unread import Unread, is_unchanged, settled, tells_of_changes

SECOND_NS = 1_000_000_000
NOW_NS = 1_700_000_000 * SECOND_NS + 5
LINKS: dict[str, Entry] = {"config.json": "../../blobs/x"}


def a_folder(ctime_ns: int, *, inode: int = 7) -> State:
    return State(stat.S_IFDIR | 0o755, 4096, ctime_ns, 1, inode, 2, ctime_ns)


@pytest.mark.parametrize(
    ("ago_ns", "rests"),
    [
        (SECOND_NS // 10, True),
        (SECOND_NS // 10 - 1, False),
        (0, False),
        (-SECOND_NS, False),
        (2 * SECOND_NS + 5, True),  # a whole second: the file system may keep no others
        (SECOND_NS + 5, False),
    ],
)
def test_the_last_change_lies_long_enough_before_the_reading(ago_ns: int, rests: bool) -> None:
    old = a_folder(NOW_NS - 3600 * SECOND_NS)
    assert rests is (settled(LINKS, {"": a_folder(NOW_NS - ago_ns)}, NOW_NS, 1) is not None)
    assert rests is (settled(LINKS, {"": old, "sub": a_folder(NOW_NS - ago_ns)}, NOW_NS, 1) is not None)


def test_nothing_stands_for_what_its_folders_do_not_tell() -> None:
    old = a_folder(NOW_NS - 3600 * SECOND_NS)
    copy = State(stat.S_IFREG | 0o644, 9, 0, 1, 8, 1, 0)
    assert settled(LINKS | {"a.json": copy}, {"": old}, NOW_NS, 1) is None
    assert settled({}, {}, NOW_NS, 1) is None
    assert settled(LINKS, {"": old}, NOW_NS, 2) is None
    assert settled(LINKS, {"": old, "mounted": old._replace(st_dev=2)}, NOW_NS, 1) is None
    assert settled(LINKS, {"": a_folder(0, inode=2**64 - 1)}, NOW_NS, 1) is None


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    (tmp_path / "snapshots" / "one" / "sub").mkdir(parents=True)
    (tmp_path / "snapshots" / "one" / "a").symlink_to("../../blobs/a")
    (tmp_path / "snapshots" / "one" / "sub" / "b").symlink_to("../../../blobs/b")
    return Scan(str(tmp_path))


def test_what_stands_is_what_lies_there(scan: Scan) -> None:
    states: dict[str, State] = {}
    names = scan.tree("snapshots/one", folders=states)
    assert ["", "sub"] == list(states)
    found = settled(names, states, time.time_ns() + 10 * SECOND_NS, os.stat(scan.root).st_dev)
    assert found is not None
    top = f"{scan.root}/snapshots/one"
    assert is_unchanged(top, found)
    os.rename(f"{top}/sub/b", f"{top}/sub/c")
    assert not is_unchanged(top, found)
    assert not is_unchanged(f"{scan.root}/snapshots/two", found)
    assert not is_unchanged(top, found._replace(paths=("", "su\0b")))
    assert not is_unchanged(top, found._replace(paths=()))


def test_what_was_not_read_is_read_when_it_is_asked_for(scan: Scan) -> None:
    later = Unread(scan, "snapshots/one")
    os.unlink(f"{scan.root}/snapshots/one/a")
    assert {"sub/b": "../../../blobs/b"} == dict(later.items())
    assert (1, "../../../blobs/b", None) == (len(later), later["sub/b"], later.get("a"))


@pytest.mark.parametrize(
    ("kind", "tells"), [("ext4", True), ("tmpfs", True), ("overlay", False), ("nfs4", False), ("", False)]
)
def test_only_a_file_system_of_our_own_tells_of_changes(kind: str, tells: bool) -> None:
    assert tells is tells_of_changes(kind)


def test_nothing_stands_for_what_could_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchverify.store.survey.tells_of_changes", lambda _: True)
    monkeypatch.setattr("fetchverify.store.unread._TICK_NS", -10 * SECOND_NS)
    commit = "a" * 40
    snapshot = tmp_path / "models--a--b" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "a").symlink_to("../../blobs/a")
    assert [commit] == list(survey_cache(tmp_path, "models--a--b").folders)
    (snapshot / "/".join("d" * 140)).mkdir(parents=True)
    facts = survey_cache(tmp_path, "models--a--b")
    assert ({}, 1) == (facts.folders, len(facts.unreadable))
