"""Counts at the end of a session: summed once over all tests, zeros too."""

from __future__ import annotations

from collections import Counter

import pytest

from tests import tally


def report(when: str, *counts: tuple[str, int]) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="t.py::t",
        location=("t.py", 1, "t"),
        keywords={},
        outcome="passed",
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        user_properties=[(f"count: {what}", number) for what, number in counts] + [("other", "x")],
    )


def test_what_tests_counted_is_summed_once_a_test() -> None:
    """Each of a test's three reports carries the same list, as far as it had grown by then."""
    stats = {
        "passed": [report("call", ("kills", 2))],
        "": [report("setup"), report("teardown", ("kills", 2), ("kills", 1)), report("teardown", ("unproved", 0))],
    }
    assert {"kills": 3, "unproved": 0} == tally.summed(stats)


def test_the_lines_name_the_seed_and_say_nothing_where_nothing_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tally.SEED, "7")
    kills, unproved, seed = tally.told(Counter({"kills": 1234, "unproved": 0}))
    assert ["kills     1,234", "unproved  0"] == [kills, unproved]
    assert seed.startswith("seed 7; ")
    assert [] == tally.told(Counter())
