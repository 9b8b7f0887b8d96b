"""What all tests share."""

from __future__ import annotations

import os

import pytest

from tests import tally

# Users have none of it, and what is left in a buffer when nobody reads it is part of what they see.
os.environ.pop("PYTHONUNBUFFERED", None)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn skips into a failure where `FETCHVERIFY_NO_SKIPS` is set: in CI a test that did not run proves nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # absent in xdist's workers
    if reporter is None or not os.environ.get("FETCHVERIFY_NO_SKIPS"):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped:
        reporter.write_line("")
        for report in skipped:
            reporter.write_line(f"skipped, which is a failure here: {report.nodeid}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure() -> None:
    tally.choose_seed()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> tally.Chance:
    """Chance that can be repeated."""
    return tally.chance_of(request.node)


@pytest.fixture
def count(request: pytest.FixtureRequest) -> tally.Count:
    """A count that is printed at the end of the session."""
    return tally.Count(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = tally.told(tally.summed(terminalreporter.stats))
    if lines:
        terminalreporter.section("what was tried")
        for line in lines:
            terminalreporter.write_line(line)
