"""The unmodified `git` and `git-lfs` work against the mock Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import FileValue, KiB, MockHub, Seeded, World
from tests.conformance.clones import Shell

WEIGHTS = Seeded(300 * KiB, "weights")
AWKWARD = Seeded(20 * KiB, "awkward")


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    files: dict[str, FileValue | None] = {
        "config.json": b"{}\n",
        "w.safetensors": WEIGHTS,
        'a "b" ü/[x] *.bin': AWKWARD,
    }
    world.add("org/m", files)
    world.add("org/data", {"t.parquet": WEIGHTS}, kind="dataset")
    world.add("org/private", {"w.safetensors": WEIGHTS}, private=True, tokens=["hf_demo"])
    with MockHub(world) as running:
        yield running


@pytest.fixture
def shell(hub: MockHub, tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home", hub)


@pytest.mark.parametrize("header", [False, True], ids=["signed", "header"])
def test_git_lfs_downloads_a_clone(hub: MockHub, shell: Shell, tmp_path: Path, header: bool) -> None:
    hub.configure(lfs_header=header)
    clone = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "m", content=True)
    assert WEIGHTS.read(0, WEIGHTS.size) == (clone / "w.safetensors").read_bytes()
    assert AWKWARD.read(0, AWKWARD.size) == (clone / 'a "b" ü/[x] *.bin').read_bytes()
    assert shell.status(clone) == ""
    shell("git", "lfs", "fsck", cwd=clone)
    assert {200} == {record.status for record in hub.ledger.requests(kind="lfs")}
    assert 2 == len(hub.ledger.requests(kind="cdn", status=200))


def test_a_pointer_is_what_a_clone_without_content_holds(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    clone = shell.clone(f"{hub.endpoint}/datasets/org/data", tmp_path / "d")
    assert hub.world.repo("org/data", "dataset").file("t.parquet").pointer() == (clone / "t.parquet").read_bytes()
    assert [] == hub.ledger.requests(kind="lfs")
    assert ["origin/HEAD", "origin/main"] == [
        name.split()[0] for name in shell("git", "branch", "-r", cwd=clone).stdout.splitlines()
    ]


def test_a_later_commit_can_be_fetched(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    """Histories grow by parents: a fetch after a push must be a fast-forward."""
    clone = shell.clone(f"{hub.endpoint}/org/m.git", tmp_path / "m")
    hub.world.repo("org/m").commit({"config.json": b"[]\n", "w.safetensors": None})
    shell("git", "pull", "-q", "--ff-only", cwd=clone)
    assert b"[]\n" == (clone / "config.json").read_bytes()
    assert not (clone / "w.safetensors").exists()


def test_a_private_repo_asks_for_a_password(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    denied = shell("git", "clone", "-q", f"{hub.endpoint}/org/private", "p", cwd=tmp_path, code=128)
    assert "could not read Username" in denied.stderr
    allowed = hub.endpoint.replace("://", "://user:hf_demo@")
    clone = shell.clone(f"{allowed}/org/private", tmp_path / "p", content=True)
    assert WEIGHTS.read(0, WEIGHTS.size) == (clone / "w.safetensors").read_bytes()


def test_objects_can_be_refused_one_by_one(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    hub.configure(lfs_errors={"w.safetensors": 410})
    clone = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "m")
    done = shell("git", "lfs", "pull", cwd=clone, code=2)
    assert "Object was removed" in done.stderr
    assert AWKWARD.read(0, AWKWARD.size) == (clone / 'a "b" ü/[x] *.bin').read_bytes()
