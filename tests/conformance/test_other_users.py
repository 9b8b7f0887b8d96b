"""A cache that several users share: modes, umask and group as the hub's client keeps them, and nobody in the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue

pytestmark = pytest.mark.root

BLOCK = 8 * MiB
FILES: dict[str, FileValue | None] = {
    "config.json": b"{}\n",
    "sub/v.bin": Seeded(9 * MiB, seed="v"),
    "w.bin": Seeded(40 * MiB, seed="w"),
}
GROUP = 54_000
ANNA, BERT = 54_001, 54_002  # both in GROUP


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    with MockHub(world) as running:
        yield running


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a folder of Anna's in which new files belong to the group."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and `setpriv` to be other users")
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == 0 and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o755)
    return folder_of_anna(tmp_path / "shared")


def folder_of_anna(path: Path) -> Path:
    path.mkdir()
    os.chown(path, ANNA, GROUP)
    path.chmod(0o2775)
    return path


def start(uid: int, umask: str, command: list[str], hub: MockHub, home: Path) -> subprocess.Popen[str]:
    be = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={GROUP}"]
    # The interpreter may lie below a folder that only root may enter: reading is allowed, writing is what is tested.
    be += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words = [*be, "sh", "-c", f'umask {umask}; exec "$@"', "sh", *command]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env = kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


OURS = [sys.executable, "-m", "fetchverify", "get", "org/model", "--connections", "2"]
THEIRS = [str(Path(sys.executable).parent / "hf"), "download", "org/model"]


def run(uid: int, umask: str, command: list[str], hub: MockHub, home: Path, *, code: int = 0) -> str:
    process = start(uid, umask, command, hub, home)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    return err


def killed(uid: int, umask: str, hub: MockHub, home: Path) -> None:
    """Run ours until two blocks and more of the large file are there; nothing of it is published."""
    hub.fault(Trickle(rate=16 * MiB), path="w.bin")
    process = start(uid, umask, OURS, hub, home)
    until = time.monotonic() + 30
    while hub.ledger.bytes_sent("w.bin") < 2 * BLOCK + 4 * MiB:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.clear_faults()
    hub.ledger.clear()


def permissions(home: Path) -> dict[str, tuple[str, int, int]]:
    """Return mode, user and group of all that both clients make."""
    found = {}
    for path in (home / "hub").rglob("*"):
        name = path.relative_to(home).as_posix()
        # The hub's listing is a temporary file that it renamed, 0600: no one else could read it.
        if ".fetchverify" not in path.parts and "/trees/" not in name:
            entry = path.lstat()
            found[name] = (stat.filemode(entry.st_mode), entry.st_uid, entry.st_gid)
    return found


def assert_whole(hub: MockHub, home: Path) -> None:
    commit = hub.world.repo("org/model").head()
    root = home / "hub" / "models--org--model"
    for path, file in commit.files.items():
        assert file.content.sha256() == hashlib.sha256((root / "snapshots" / commit.id / path).read_bytes()).hexdigest()
    assert commit.id == (root / "refs" / "main").read_text()


@pytest.mark.parametrize("umask", ["002", "022", "077"])
def test_modes_and_groups_are_those_of_the_hubs_client(hub: MockHub, tmp_path: Path, shared: Path, umask: str) -> None:
    run(ANNA, umask, THEIRS, hub, shared)
    ours = folder_of_anna(tmp_path / "ours")
    run(ANNA, umask, OURS, hub, ours)
    assert permissions(shared) == permissions(ours)
    trees = list(ours.glob("hub/models--org--model/trees/*"))
    assert [0o666 & ~int(umask, 8)] == [stat.S_IMODE(path.stat().st_mode) for path in trees]


@pytest.mark.parametrize("command", [OURS, THEIRS], ids=["ours", "theirs"])
@pytest.mark.parametrize("umask", ["002", "022"])
def test_what_another_user_has_whole_is_kept(hub: MockHub, shared: Path, umask: str, command: list[str]) -> None:
    """Also where we may not write: then it is proved, and not noted."""
    run(ANNA, umask, command, hub, shared)
    hub.ledger.clear()
    before = permissions(shared)
    run(BERT, "002", OURS, hub, shared)
    assert (0, 0) == (hub.ledger.bytes_sent("w.bin"), hub.ledger.bytes_sent("v.bin"))
    assert before == permissions(shared)


def test_a_cache_of_another_user_is_no_place_to_write(hub: MockHub, shared: Path) -> None:
    run(ANNA, "022", [*OURS[:5], "config.json"], hub, shared)
    hub.ledger.clear()
    before = permissions(shared)
    err = run(BERT, "022", OURS, hub, shared, code=5)
    assert "(EACCES)" in err
    assert "hint: check who owns the folder and its permissions" in err
    assert "Traceback" not in err
    assert (0, before) == (hub.ledger.bytes_sent("w.bin"), permissions(shared))


def test_a_dead_download_of_another_user_is_gone_on_with_in_a_shared_cache(hub: MockHub, shared: Path) -> None:
    killed(ANNA, "002", hub, shared)
    run(BERT, "002", OURS, hub, shared)
    assert hub.ledger.bytes_sent("w.bin") <= 40 * MiB - BLOCK
    assert_whole(hub, shared)
    assert not list(shared.rglob(".fetchverify/partial/*"))


def test_blocks_of_a_download_that_may_not_be_touched_are_copied(hub: MockHub, shared: Path) -> None:
    """Anna's files are hers alone, the folders the group's: her partial stays, its blocks are not paid for again."""
    killed(ANNA, "022", hub, shared)
    for path in [*shared.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o2775)
    run(BERT, "002", OURS, hub, shared)
    assert hub.ledger.bytes_sent("w.bin") <= 40 * MiB - BLOCK
    assert_whole(hub, shared)
    blob = shared / "hub/models--org--model/blobs" / hub.world.repo("org/model").file("w.bin").etag()
    assert (BERT, GROUP, "-rw-rw-r--") == (
        blob.stat().st_uid,
        blob.stat().st_gid,
        stat.filemode(blob.stat().st_mode),
    )
    # Hers is there still, and hers to remove.
    left = list(shared.rglob(".fetchverify/partial/*/data"))
    assert {ANNA} == {path.stat().st_uid for path in left}
    # And she, who comes back, finds the file and nothing to do.
    hub.ledger.clear()
    run(ANNA, "022", OURS, hub, shared)
    assert 0 == hub.ledger.bytes_sent("w.bin")


def test_a_live_download_of_another_user_is_waited_for(hub: MockHub, shared: Path) -> None:
    hub.fault(Trickle(rate=16 * MiB), path="w.bin")
    first = start(ANNA, "022", OURS, hub, shared)
    while hub.ledger.bytes_sent("w.bin") < MiB:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    for path in [*shared.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o2775)
    err = run(BERT, "002", OURS, hub, shared)
    first.communicate()
    assert first.returncode == 0
    assert f"waiting for process {first.pid} (" in err
    assert 40 * MiB == hub.ledger.bytes_sent("w.bin")
    assert_whole(hub, shared)
