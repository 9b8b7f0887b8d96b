"""What the randomised tests did, counted over all of them, and the seed by which it is done again.

`FETCHVERIFY_SEED` repeats a run, `FETCHVERIFY_ROUNDS` (1) multiplies what is tried.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

import pytest

SEED, ROUNDS = "FETCHVERIFY_SEED", "FETCHVERIFY_ROUNDS"
_PREFIX = "count: "


@dataclass(frozen=True, slots=True)
class Chance:
    """A test's own share of the seed."""

    rng: random.Random
    rounds: int


@dataclass(frozen=True, slots=True)
class Count:
    """Adds to the counts that are printed at the end."""

    item: pytest.Item

    def __call__(self, what: str, number: int = 1) -> None:
        """Add `number` to what was counted under these words."""
        # On the report, since that is what comes back from xdist's workers.
        self.item.user_properties.append((_PREFIX + what, number))


Reports: TypeAlias = dict[str, list[pytest.TestReport]]


def choose_seed() -> None:
    """Settle on a seed for this process and for those that it starts."""
    os.environ.setdefault(SEED, str(random.randrange(1 << 30)))


def chance_of(item: pytest.Item) -> Chance:
    """Return what chance has in store for one test: the same, whichever tests run before it."""
    return Chance(random.Random(f"{os.environ[SEED]} {item.nodeid}"), int(os.environ.get(ROUNDS) or 1))


def summed(stats: Reports) -> Counter[str]:
    """Return all counts of a session."""
    totals: Counter[str] = Counter()
    for reports in stats.values():
        for report in reports:
            if getattr(report, "when", None) != "teardown":  # the last of a test's reports has what all phases counted
                continue
            for name, number in report.user_properties:
                if name.startswith(_PREFIX):
                    totals[name.removeprefix(_PREFIX)] += int(str(number))
    return totals


def told(totals: Counter[str]) -> list[str]:
    """Return the lines to print; none where nothing was counted."""
    if not totals:
        return []
    width = max(map(len, totals))
    lines = [f"{what:<{width}}  {number:,}" for what, number in totals.items()]
    again = f"seed {os.environ[SEED]}; `{SEED}={os.environ[SEED]}` does it again, `{ROUNDS}=10` does more"
    return [*lines, again]
