"""Pins end to end: `lock` writes what the Hub promises, `get --locked` fetches that, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mock_server import FileValue, KiB, MockHub, Seeded, World


class Place:
    def __init__(self, hub: MockHub, root: Path) -> None:
        self.hub = hub
        self.root = root
        self.lock = root / "models.lock"

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        env = kept | {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.root / "home")}
        done = subprocess.run(
            [sys.executable, "-m", "fetchverify", *arguments],
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert code == done.returncode, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def report(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", "-q", code=code).stdout.splitlines()[-1])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    world = World()
    files: dict[str, FileValue | None] = {"config.json": b"{}\n", "w.bin": Seeded(30 * KiB, "one"), "old.txt": b"old\n"}
    world.add("org/m", files)
    world.add("org/d", {"t.parquet": Seeded(20 * KiB, "data")}, kind="dataset")
    with MockHub(world) as hub:
        yield Place(hub, tmp_path)


def move(place: Place) -> str:
    """Push a commit: one file changed, one more, one less."""
    files: dict[str, FileValue | None] = {"w.bin": Seeded(31 * KiB, "two"), "new.txt": b"new\n", "old.txt": None}
    return place.hub.world.repo("org/m").commit(files)


def test_what_is_locked_is_fetched_after_the_branch_moved(place: Place) -> None:
    place("lock", "org/m", "datasets/org/d")
    before = place.lock.read_text()
    pinned = place.hub.world.repo("org/m").branches["main"]
    assert f'commit = "{pinned}"' in before
    move(place)
    folders = [Path(line) for line in place("get", "--locked", "models.lock").stdout.splitlines()]
    assert ["t.parquet"] == sorted(path.name for path in folders[0].iterdir())
    assert ["config.json", "old.txt", "w.bin"] == sorted(path.name for path in folders[1].iterdir())
    assert pinned == folders[1].name
    # What the environment was built with is what `from_pretrained("org/m")` finds offline.
    assert pinned == (folders[1].parents[1] / "refs" / "main").read_text()
    assert before == place.lock.read_text()


def test_update_shows_what_moved(place: Place) -> None:
    place("lock", "org/m", "datasets/org/d")
    before = place.lock.read_text()
    old = place.hub.world.repo("org/m").branches["main"]
    new = move(place)
    shown = place("lock", "--update", "--dry-run").stdout
    assert before == place.lock.read_text()
    expected = (
        f"org/m@main  moved from {old[:8]} to {new[:8]}\n  + new.txt  4 B\n  - old.txt  4 B\n"
        "  ~ w.bin  30.7 kB -> 31.7 kB\n"
    )
    assert expected in shown
    assert "org/d@main  stays at " in shown
    assert shown == place("lock", "--update").stdout
    after = place.lock.read_text()
    assert (f'commit = "{new}"' in after, f'commit = "{old}"' in after) == (True, False)


def test_what_is_pinned_stays_unless_update_says_otherwise(place: Place) -> None:
    place("lock", "org/m")
    before = place.lock.read_text()
    move(place)
    told = place.report("lock", "org/m", "datasets/org/d")
    assert [("org/m", True), ("org/d", False)] == [
        (one["repo_id"], one["before"] == one["after"]) for one in told["moves"]
    ]
    assert before.partition("[[repo]]")[2] in place.lock.read_text()
    place("lock", "--update", "org/other", code=2)


def test_a_hub_that_says_otherwise_is_found_out(place: Place) -> None:
    """Exit code 1, and not a byte on disk."""
    place("lock", "org/m")
    text = place.lock.read_text()
    digest = place.hub.world.repo("org/m").file("w.bin").content.sha256()
    place.lock.write_text(text.replace(digest, "0" * 64))
    done = place("get", "--locked", "models.lock", code=1)
    assert "the Hub says otherwise than the pin" in done.stderr
    assert "`w.bin`" in done.stderr
    assert [] == list((place.root / "home").rglob("snapshots/*/*"))


def test_a_commit_that_is_gone_is_absent(place: Place) -> None:
    place("lock", "org/m")
    place.hub.world.repo("org/m").force_push({"x.txt": b"x"})
    assert "revision" in place("get", "--locked", "models.lock", code=3).stderr


def test_what_is_locked_can_be_proved_without_the_network(place: Place) -> None:
    place("lock", "org/m")
    place("get", "--locked", "models.lock")
    place.hub.ledger.clear()
    told = place.report("get", "--locked", "models.lock", "--offline")
    assert (False, 0) == (told["changed"], len(place.hub.ledger))
    told = place.report("get", "--locked", "models.lock", "--offline", "--cache-dir", "other", code=3)
    assert {"absent"} == {outcome["kind"] for outcome in told["outcomes"]}


def test_one_of_several_repos_can_be_named(place: Place) -> None:
    place("lock", "org/m", "datasets/org/d")
    place("get", "--locked", "models.lock", "org/m", "config.json", "--to", "here")
    assert b"{}\n" == (place.root / "here" / "config.json").read_bytes()
    assert "which `--to` would mix" in place("get", "--locked", "models.lock", "--to", "x", code=2).stderr
    place("get", "--locked", "models.lock", "org/d", code=3)
    place("get", "--locked", "none.lock", code=2)
    place("get", code=2)
    place("lock", code=2)
