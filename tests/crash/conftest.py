"""Where crashes are tried."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MockHub
from tests.crash.commands import Setting, clean_environment, new_world


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    """A Hub and an empty folder, in memory where there is room: hundreds of real syncs cost more than all the rest."""
    for name, value in clean_environment().items():
        monkeypatch.setenv(name, value)
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as place, MockHub(new_world()) as hub:
        yield Setting(hub=hub, place=Path(place))
