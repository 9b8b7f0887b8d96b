"""Real power cuts, on ext4 and XFS, at random moments of the commands that write."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fetchverify.store.rawdisk import RawDisk
from mock_server import MiB, MockHub, Trickle
from tests.crash.commands import BIG, CASES, Case, Setting, must, new_world
from tests.crash.recorder import scan
from tests.mounts import Volume
from tests.tally import Chance, Count

CUTS_IN_A_ROW = 3
MOST_OPERATIONS = 110  # a whole `get` makes some 130; most of them are writes into the large file

pytestmark = pytest.mark.root


@contextmanager
def volume(setting: Setting, kind: str) -> Iterator[Volume]:
    made = Volume(setting.place, kind)
    try:
        yield made
    finally:
        made.close()


def run_into_the_cut(case: Case, here: Setting, disk: Volume, rng: random.Random) -> tuple[int, str]:
    """Run the command and cut the power in its midst; return its exit code and when that was."""
    if rng.random() < 0.6:
        number = rng.randint(1, MOST_OPERATIONS)
        command = [
            sys.executable,
            "-m",
            "tests.crash.doomed",
            str(disk.where),
            str(number),
            "--",
            *case.words(here),
            "-v",
        ]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode == 0:
            disk.cut()
        return done.returncode, f"before operation {number}: {done.stderr.decode()}"
    delay_s = rng.uniform(0.4, 1.4)
    command = [sys.executable, "-m", "fetchverify", *case.words(here), "-v"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            pass
        disk.cut()
        _, said = process.communicate(timeout=60)
        return process.returncode, f"after {delay_s:.3f} s: {said}"


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_after_a_power_cut_nobody_is_misled_and_a_re_run_ends_well(
    setting: Setting, kind: str, chance: Chance, count: Count
) -> None:
    """The file system's own view of what was synced, not ours: the journal is not flushed, a copy of the disk boots."""
    names = list(CASES)
    for name in [names[chance.rng.randrange(len(names))] for _ in range(4 * chance.rounds)]:
        try_one(setting, kind, CASES[name], name, chance.rng, count)


def try_one(setting: Setting, kind: str, case: Case, name: str, rng: random.Random, count: Count) -> None:
    with MockHub(new_world()) as hub, volume(setting, kind) as disk:
        here = Setting(hub=hub, place=disk.where)
        before = case.prepare(here)
        disk.settle()
        promise = case.promise(here, before)
        hub.fault(Trickle(rate=24 * MiB), path=BIG)
        for _ in range(CUTS_IN_A_ROW):
            code, when = run_into_the_cut(case, here, disk, rng)
            disk.boot()
            count("real power cuts survived")
            found = scan(disk.where)
            count("bytes published unproved", case.unproved(found, promise))
            problems = case.misled(found, promise)
            if code == 0:
                problems += case.missing(found, promise)
            assert [] == problems, (name, when, code)
            if code == 0:
                return
            if code not in case.ends:
                pytest.fail(f"`{name}` ended with exit code {code}, {when}")
        hub.clear_faults()
        must(case.words(here))
        disk.cut()
        disk.boot()
        count("real power cuts survived")
        found = scan(disk.where)
        assert [] == case.missing(found, promise) + case.misled(found, promise), name


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_cut_is_real(setting: Setting, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its syncs the very same run loses what it published: else the test above would prove nothing."""
    case = CASES["get"]
    with volume(setting, kind) as disk:
        here = setting.elsewhere(disk.where)
        disk.settle()
        for method in ("fsync", "fsync_path", "fsync_dir"):
            monkeypatch.setattr(RawDisk, method, lambda *_: None)
        must(case.words(here))
        assert [] == case.missing(scan(disk.where), promise := case.promise(here, {}))
        disk.cut()
        disk.boot()
        assert case.missing(scan(disk.where), promise)
