"""Clones of one mock Hub, for the tests of git and git-lfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MockHub, World
from tests.conformance.clones import FILES, SMALL, Shell


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/m", FILES)
    world.add("org/private", {"w.bin": SMALL}, private=True, tokens=["hf_demo"])
    with MockHub(world) as running:
        yield running


@pytest.fixture
def shell(hub: MockHub, tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home", hub)


@pytest.fixture
def clone(hub: MockHub, shell: Shell, tmp_path: Path) -> Path:
    made = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "m")
    hub.ledger.clear()
    return made
