"""An owner is taken for dead only on proof: a wrong guess lets two processes write one file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fetchverify.store import owner
from fetchverify.store.disk import Disk
from fetchverify.store.owner import Hold, Life, Owner, claim, judge, look, myself, parse_owner, start_time


def life(record: Owner, *, local: bool, flock_free: bool = True) -> Life:
    return judge(record, now=myself(), local=local, flock_free=flock_free)


@pytest.mark.parametrize("local", [True, False])
def test_a_running_process_is_alive_whatever_its_lock_says(local: bool) -> None:
    """On some file systems `flock` succeeds for everyone."""
    assert Life.LIVE == life(myself(), local=local)


@pytest.mark.parametrize("local", [True, False])
def test_a_held_lock_means_life_whatever_the_record_says(local: bool) -> None:
    """A child may have inherited the descriptors of a process that is gone."""
    gone = replace(myself(), start=1)
    assert (Life.LIVE, Life.DEAD) == (life(gone, local=local, flock_free=False), life(gone, local=local))


def test_a_pid_that_came_back_as_another_process_is_dead() -> None:
    me = myself()
    assert Life.DEAD == life(replace(me, start=me.start + 1), local=False)


@pytest.mark.parametrize(
    "stranger",
    [{"boot": "another"}, {"pid_namespace": "pid:[1]"}, {"boot": ""}, {"pid_namespace": ""}, {"start": 0}],
)
def test_what_cannot_be_proved_is_unknown_where_another_machine_may_be_at_work(stranger: dict[str, str]) -> None:
    """On NFS the boot id of another machine differs, too: that proves nothing about its process."""
    record = replace(myself(), **stranger)  # type: ignore[arg-type]
    assert (Life.UNKNOWN, Life.DEAD) == (life(record, local=False), life(record, local=True))


def test_start_times_are_read_past_hostile_process_names(tmp_path: Path) -> None:
    """The name in `/proc/<pid>/stat` may hold spaces and brackets."""
    program = tmp_path / "a) S 1 (b"
    program.symlink_to(sys.executable)
    child = subprocess.Popen([str(program), "-c", "import time; time.sleep(60)"])
    try:
        ours, theirs = start_time(os.getpid()), start_time(child.pid)
        assert ours is not None
        assert theirs is not None
        assert ours <= theirs < ours + 100 * 3600
    finally:
        child.kill()
    deadline = time.monotonic() + 10
    while start_time(child.pid) != 0:  # a zombie counts as gone: its descriptors are closed
        assert time.monotonic() < deadline
    child.wait()
    assert 0 == start_time(child.pid)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff", b"1" * 5000])
def test_a_torn_record_is_no_record(raw: bytes) -> None:
    assert parse_owner(raw) is None


@pytest.mark.parametrize(
    "bad",
    [{"token": "../../../../../../../../etc/pass"}, {"token": "short"}, {"token": 7}, {"pid": "1"}, {"boot": None}],
)
def test_a_foreign_record_is_no_record(bad: dict[str, object]) -> None:
    """A token becomes part of a file name."""
    assert parse_owner(replace(myself(), **bad).as_bytes()) is None  # type: ignore[arg-type]
    me = myself()
    assert me == parse_owner(me.as_bytes())


def take(disk: Disk, folder: Path, me: Owner | None = None) -> Hold | None:
    me = me or myself()
    return claim(disk, folder, look(folder, me), me)


def test_only_one_of_many_claims_on_the_same_record_wins(disk: Disk, tmp_path: Path) -> None:
    """Two runs that find the same dead owner at the same time."""
    first = take(disk, tmp_path, replace(myself(), start=1))
    assert first is not None
    first.drop()
    found = look(tmp_path, myself())
    assert Life.DEAD is found.life
    winners = [claim(disk, tmp_path, found, myself()), claim(disk, tmp_path, found, myself())]
    assert [True, False] == [hold is not None for hold in winners]
    assert Life.LIVE is look(tmp_path, myself()).life
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".fv")]


def test_a_claim_on_an_outdated_record_is_one_that_nobody_follows(disk: Disk, tmp_path: Path) -> None:
    """The slow one looked before the directory was published, removed and made again by others."""
    (tmp_path / "p").mkdir()
    old = take(disk, tmp_path / "p", replace(myself(), start=1))
    assert old is not None
    old.drop()
    outdated = look(tmp_path / "p", myself())
    disk.remove_tree(tmp_path / "p")
    (tmp_path / "p").mkdir()
    current = myself()
    assert take(disk, tmp_path / "p", current) is not None
    slow = replace(myself(), start=1)
    assert claim(disk, tmp_path / "p", outdated, slow) is not None
    assert current == look(tmp_path / "p", myself()).owner


def test_claiming_what_is_gone_fails_quietly(disk: Disk, tmp_path: Path) -> None:
    assert take(disk, tmp_path / "absent") is None


def test_released_means_free_at_once(disk: Disk, tmp_path: Path) -> None:
    hold = take(disk, tmp_path)
    assert hold is not None
    assert Life.LIVE is look(tmp_path, myself()).life
    hold.release()
    hold.release()
    assert (Life.DEAD, []) == (look(tmp_path, myself()).life, os.listdir(tmp_path))


def test_ownership_works_without_hard_links(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    hold = take(disk, tmp_path)
    assert hold is not None
    assert Life.LIVE is look(tmp_path, myself()).life
    assert ["owner"] == os.listdir(tmp_path)
    hold.release()
    assert Life.DEAD is look(tmp_path, myself()).life


def test_ownership_works_where_locks_are_absent_or_lie(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    hold = take(disk, tmp_path)
    assert hold is not None
    assert Life.LIVE is look(tmp_path, myself()).life
    hold.release()


def test_the_kernels_word_for_a_local_file_system_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "30 22 0:40 / /mnt/with\\040space rw - nfs4 server:/x rw\n"
        "31 22 0:41 / /mnt/with\\040space/inner rw - tmpfs tmpfs rw\n"
        "32 22 0:42 / /mn rw - fuse.sshfs host: rw\n"
        "broken line\n"
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    )
    monkeypatch.setattr(owner, "_read_text", lambda path: table)
    paths = ["/", "/mnt/with space/a", "/mnt/with space/inner/a", "/mnt/elsewhere", "/mn/a"]
    assert [True, False, True, True, False] == [owner.on_local_file_system(Path(path)) for path in paths]


def test_a_killed_process_is_seen_as_dead(disk: Disk, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        take(disk, tmp_path)
        os.write(1, b"")
        signal.pause()
    deadline = time.monotonic() + 10
    while look(tmp_path, myself()).owner is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert Life.LIVE is look(tmp_path, myself()).life
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert Life.DEAD is look(tmp_path, myself()).life
