"""The short way to a lock excludes whom the hub's own lock excludes, and leaves the rest to it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
from filelock import Timeout
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from fetchverify.errors import LockedError
from fetchverify.store.disk import Disk
from fetchverify.store.hublock import hub_lock


def never(holder: str, waited_s: float) -> None:
    raise AssertionError(f"waits for {holder}")


def test_the_hubs_client_waits_for_us(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "locks" / "a.lock"
    for _ in range(2):  # the folder is made, then it is there
        with hub_lock(disk, path, never, None), pytest.raises(Timeout), WeakFileLock(path, timeout=0.05):
            pass
        with WeakFileLock(path, timeout=1):
            pass
    assert 0o664 == stat.S_IMODE(path.stat().st_mode)


def test_we_wait_for_the_hubs_client(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "a.lock"
    told: list[str] = []
    with WeakFileLock(path, timeout=1):
        with pytest.raises(LockedError), hub_lock(disk, path, lambda holder, _: told.append(holder), 0.3):
            pass
        release = threading.Event()
        entered = threading.Event()

        def wait() -> None:
            with hub_lock(disk, path, lambda *_: release.set(), None):
                entered.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert release.wait(5)
        assert not entered.is_set()
    assert entered.wait(5)
    thread.join()
    assert told
    assert str(os.getpid()) in told[0]


def test_two_threads_exclude_each_other(tmp_path: Path, disk: Disk) -> None:
    path, inside, seen = tmp_path / "a.lock", [0], list[int]()

    def work() -> None:
        for _ in range(50):
            with hub_lock(disk, path, lambda *_: None, None):
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [1] * 200 == seen


def test_without_flock_no_file_is_left_that_would_look_like_a_held_lock(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the hub's client holds a lock by its being there."""
    real, asked = fcntl.flock, list[int]()

    def no_flock(fd: int, how: int) -> None:
        asked.append(how)
        if len(asked) == 1:
            raise OSError(errno.ENOSYS, "Function not implemented")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with hub_lock(disk, tmp_path / "a.lock", never, 1.0):
        pass
    assert len(asked) > 1, "the hub's own way was taken"


def test_a_lock_that_is_held_by_being_there_is_left_to_the_hubs_own(tmp_path: Path, disk: Disk) -> None:
    """A marker with a process in it: this one, so that nobody takes it for stale."""
    path = tmp_path / "a.lock"
    path.write_text(f"{os.getpid()}\nhost\n")
    with hub_lock(disk, path, lambda *_: None, 1.0):
        assert path.read_text().startswith(str(os.getpid())), "what it says is not touched"


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path, disk: Disk) -> None:
    target = tmp_path / "precious"
    (tmp_path / "a.lock").symlink_to(target)
    with pytest.raises(Exception, match="lock"), hub_lock(disk, tmp_path / "a.lock", lambda *_: None, 0.3):
        pass
    assert not target.exists()
