"""Counts what was tried, and looks once more at what was published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MockHub
from tests.crash.laws import unproved_bytes
from tests.crash.recorder import scan
from tests.tally import Count


@pytest.fixture(autouse=True)
def _tally(request: pytest.FixtureRequest, tmp_path: Path, count: Count) -> Iterator[None]:
    hub = request.getfixturevalue("hub") if "hub" in request.fixturenames else None
    yield
    if isinstance(hub, MockHub):
        count("faults tried", hub.ledger.faulty)
    if request.node.get_closest_marker("leaves_damage"):
        return  # done by the test itself, to what was published right
    unproved = unproved_bytes(scan(tmp_path))
    count("bytes published unproved", unproved)
    assert 0 == unproved
