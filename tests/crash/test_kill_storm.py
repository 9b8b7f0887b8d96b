"""SIGKILL at hundreds of random moments, with other options, endpoints, revisions, clocks and places in between.

`FETCHVERIFY_ROUNDS` multiplies their number (25), `FETCHVERIFY_SEED` repeats a storm's choices.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.crash.storm import Account, Life, TwoHubs

KILLS = 25 * int(os.environ.get("FETCHVERIFY_ROUNDS") or 1)


def test_a_storm_of_kills_loses_nothing_and_pays_for_little(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Whenever the process dies: readers see whole files or none, and no block with a record is asked for again.

    What is sent in all stays below the files' size and one unfinished block a connection a kill.
    """
    seed = int(os.environ.get("FETCHVERIFY_SEED") or random.randrange(1 << 30))
    print(f"{KILLS} kills, FETCHVERIFY_SEED={seed}")
    rng = random.Random(seed)
    account = Account()
    with TwoHubs(str(seed)) as hubs:
        hubs.repo.commit({"README.md": b"# other\n"}, branch="other")
        while account.kills < KILLS:
            where = tmp_path / f"life-{account.lives}"
            where.mkdir()
            Life(rng, hubs, where, account).run(min(KILLS - account.kills, rng.randint(3, 20)))
            shutil.rmtree(where)
    print(account)
    record_property("count: kills survived", account.kills)
    record_property("count: bytes sent twice", account.waste)
    record_property("count: looks at files, all whole", account.looks)
    assert KILLS == account.kills
