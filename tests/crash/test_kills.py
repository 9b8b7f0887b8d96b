"""SIGKILL before any write of any command, again and again, and then the same command to its end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from mock_server import MockHub
from tests.crash.commands import CASES, Case, Setting, fetched, must, new_world
from tests.crash.recorder import scan
from tests.tally import Chance, Count

KILLS_IN_A_ROW = 6
MOST_OPERATIONS = 110  # a whole `get` makes some 130


def test_killed_before_any_write_nobody_is_misled_and_a_re_run_ends_well(
    setting: Setting, chance: Chance, count: Count
) -> None:
    """Nor is a byte paid for twice that a right block spared."""
    names = list(CASES)
    for _ in range(3 * chance.rounds):
        name = names[chance.rng.randrange(len(names))]
        numbers = [chance.rng.randint(1, MOST_OPERATIONS) for _ in range(KILLS_IN_A_ROW)]
        with MockHub(new_world()) as hub, tempfile.TemporaryDirectory(dir=setting.place) as place:
            try_one(Setting(hub=hub, place=Path(place)), CASES[name], name, numbers, count)


def try_one(here: Setting, case: Case, name: str, numbers: list[int], count: Count) -> None:
    before = case.prepare(here)
    promise = case.promise(here, before)
    for number in numbers:
        words = [sys.executable, "-m", "tests.crash.doomed", "kill", str(number), "--", *case.words(here)]
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
        found = scan(here.place)
        count("bytes published unproved", case.unproved(found, promise))
        assert [] == case.misled(found, promise), (name, number)
        if done.returncode == 0:
            break
        assert -9 == done.returncode, done.stdout
        count("kills survived")
    left = scan(here.place)
    owed = {path: case.most_to_fetch(left, promise, path) for path in promise.files}
    lines = must(case.words(here))
    found = scan(here.place)
    assert [] == case.missing(found, promise) + case.misled(found, promise), (name, numbers)
    for path, size in fetched(lines):
        assert size <= owed[path], (name, numbers)
