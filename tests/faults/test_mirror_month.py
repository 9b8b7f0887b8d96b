"""A month of `mirror sync`, a run every few hours, with all that happens to an unattended machine.

`FETCHVERIFY_SEED` repeats a month, `FETCHVERIFY_ROUNDS` adds others.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fetchverify.core.mirrored import Fate
from mock_server import Cut, Fault, Flip, KiB, MockHub, Seeded, Status, World
from mock_server.world import Commit, FileValue, Kind
from tests.mounts import mounted
from tests.synced import DAY, Mirror, content_of
from tests.tally import Chance, Count

DAYS, RUNS_A_DAY = 30, 2
DOWN, FULL = 11, 19  # days on which the endpoint is down, on which the disk is full
REPOS: dict[str, Kind] = {"org/one": "model", "org/two": "model", "org/three": "model", "org/data": "dataset"}
MOUNT = "48M"


@dataclass
class Upstream:
    """The Hub of the month: what it holds, and every commit that it ever held."""

    world: World
    rng: random.Random
    history: dict[str, list[Commit]] = field(default_factory=dict)
    offered: dict[str, int] = field(default_factory=dict)
    """Bytes that were new, by digest."""
    number: int = 0

    def begin(self) -> None:
        for repo_id, kind in REPOS.items():
            files: dict[str, FileValue | None] = {"config.json": repo_id.encode(), "w.bin": self._weights()}
            self.world.add(repo_id, files, kind=kind)
            self._note(repo_id)

    def _weights(self) -> Seeded:
        self.number += 1
        return Seeded(self.rng.randint(200, 700) * KiB, seed=f"w{self.number}")

    def _note(self, repo_id: str) -> None:
        commit = self.world.repo(repo_id, REPOS[repo_id]).head()
        self.history.setdefault(repo_id, []).append(commit)
        for file in commit.files.values():
            self.offered[file.etag()] = file.size

    def move(self) -> None:
        """Push something, somewhere, most days."""
        for repo_id in self.rng.sample(sorted(REPOS), self.rng.choice([0, 0, 1, 1, 2])):
            repo = self.world.find(REPOS[repo_id], repo_id)
            if repo is None:
                continue
            self.number += 1
            small: dict[str, FileValue | None] = {"config.json": b"%d" % self.number}
            match self.rng.randrange(5):
                case 0:
                    repo.commit({"w.bin": self._weights()})
                case 1:
                    repo.commit({f"more/{self.number}.bin": self._weights(), **small})
                case 2 if len(repo.head().files) > 2:
                    repo.commit({max(repo.head().files): None, **small})
                case 3:
                    repo.force_push({**small, "w.bin": self._weights()})
                case _:
                    repo.commit(small)
            self._note(repo_id)


@dataclass
class Readers:
    """Whoever reads the mirror: they must see one whole commit, and never an older one than before."""

    upstream: Upstream
    at: dict[str, int] = field(default_factory=dict)
    looks: int = 0

    def look(self, mirror: Mirror) -> None:
        for repo_id, kind in REPOS.items():
            try:
                seen = mirror.seen(repo_id, kind=kind)
            except FileNotFoundError:
                seen = {}
            if not seen and repo_id not in self.at:
                continue  # nothing was published yet
            self.looks += 1
            commits = self.upstream.history[repo_id]
            same = [number for number, commit in enumerate(commits) if content_of(commit) == seen]
            assert same, f"readers of `{repo_id}` see no commit that ever was: {sorted(seen)}"
            assert max(same) >= self.at.get(repo_id, 0), "readers went back in time"
            self.at[repo_id] = max(same)


@pytest.fixture(params=["cache", "folders"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "tmpfs", MOUNT) as where:
        yield where


@pytest.mark.root
def test_a_month(layout: str, disk: Path, chance: Chance, count: Count) -> None:
    for number in range(chance.rounds):
        _month(layout, disk / f"m{number}", chance.rng, count)
        subprocess.run(["rm", "-rf", str(disk / f"m{number}")], check=True)


def _month(layout: str, folder: Path, rng: random.Random, count: Count) -> None:
    upstream = Upstream(World(), rng)
    upstream.begin()
    readers = Readers(upstream)
    with MockHub(upstream.world) as hub:
        mirror = Mirror(hub, folder)
        mirror.layout = layout
        names = "".join(f'[[repo]]\nid = "{name}"\ntype = "{kind}"\n' for name, kind in REPOS.items())
        mirror.write(names)
        disturbed = runs = 0
        for day in range(DAYS):
            for _ in range(RUNS_A_DAY):
                upstream.move()
                mirror.now += DAY / RUNS_A_DAY
                disturbed += _run(mirror, day, rng, count)
                runs += 1
                readers.look(mirror)
        hub.clear_faults()
        mirror.now += 2 * DAY
        assert {Fate.FAILED, Fate.RESTING}.isdisjoint(mirror.fates(now=True).values())
        for repo_id, kind in REPOS.items():
            assert mirror.source(repo_id, kind=kind) == mirror.seen(repo_id, kind=kind)
        sent = sum(record.bytes_sent for record in hub.ledger.requests() if record.kind in ("cdn", "resolve"))
        calls = sum(record.kind not in ("cdn", "resolve") for record in hub.ledger.requests())
        offered = sum(upstream.offered.values())
        most = max(
            sum(file.size for file in commit.files.values())
            for commits in upstream.history.values()
            for commit in commits
        )
        # What changed, and what a run that was cut down had under way; never what exists.
        assert sent <= offered + disturbed * most
        commits = sum(len(commits) for commits in upstream.history.values())
        assert calls <= runs * len(REPOS) + 8 * (commits + disturbed) + 8 * RUNS_A_DAY * len(REPOS)
    count("mirror runs", runs)
    count("mirror runs disturbed", disturbed)
    count("looks of a mirror's readers, all at one whole commit", readers.looks)


def _run(mirror: Mirror, day: int, rng: random.Random, count: Count) -> bool:
    """Make one run as the day has it, and return whether something befell it."""
    hub = mirror.hub
    hub.clear_faults()
    if day == DOWN:
        hub.fault(Status(code=503))
        assert 1 == mirror.sync().exit_code
        return True
    if day == FULL:
        return _on_a_full_disk(mirror)
    match rng.randrange(6):
        case 0:
            _killed(mirror, rng)
            count("mirror runs killed")
            return True
        case 1:
            faults: list[Fault] = [
                Cut(after=100 * KiB),
                Cut(after=50 * KiB, reset=True),
                Flip(offset=7),
                Status(code=500),
            ]
            hub.fault(rng.choice(faults), nth=1 if rng.random() < 0.5 else "every", path="w.bin")
            mirror.sync()
            return True
        case _:
            report = mirror.sync()
            assert 0 == report.exit_code, report
            return False


def _killed(mirror: Mirror, rng: random.Random) -> None:
    """Run it in a process of its own that is killed before one of its writes, or between them."""
    words = ["mirror", "sync", str(mirror.config), "--now"]
    at = rng.randint(1, 160)
    argv = [sys.executable, "-m", "tests.crash.doomed", "kill", str(at), "--", *words]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=60, env={**os.environ, "HF_HUB_OFFLINE": "0"})
    assert done.returncode in (0, 1, -signal.SIGKILL), done.stderr


def _on_a_full_disk(mirror: Mirror) -> bool:
    filler = mirror.folder.parent / "filler"
    free = os.statvfs(mirror.folder).f_bavail * os.statvfs(mirror.folder).f_frsize
    with filler.open("wb") as file:
        file.write(bytes(max(0, free - 64 * KiB)))
    try:
        mirror.sync()
    finally:
        filler.unlink()
    return True
