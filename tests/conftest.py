"""What all tests share."""

from __future__ import annotations

import os

import pytest


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
