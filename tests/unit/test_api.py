"""The library is the command without its output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fetchverify
from fetchverify.core.report import OutcomeKind
from fetchverify.events import Event, Resolved
from mock_server import Flip, MockHub, World


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", {"config.json": b"{}\n", "w.bin": b"weights" * 1000})
    with MockHub(world) as running:
        yield running


def test_get_returns_the_snapshot_folder(hub: MockHub, tmp_path: Path) -> None:
    folder = fetchverify.get("org/model", endpoint=hub.endpoint, cache_dir=tmp_path, token="")
    assert b"{}\n" == (folder / "config.json").read_bytes()
    assert tmp_path / "models--org--model" / "snapshots" == folder.parent


@pytest.mark.anyio
async def test_aget_runs_in_a_loop_that_is_there_already(hub: MockHub, tmp_path: Path) -> None:
    """Notebooks and servers have a loop; `anyio.run` would fail there."""
    events: list[Event] = []
    folder = await fetchverify.aget(
        "org/model", ["config.json"], endpoint=hub.endpoint, to=tmp_path, token="", on_event=events.append
    )
    assert (tmp_path, b"{}\n") == (folder, (folder / "config.json").read_bytes())
    assert [1] == [event.files for event in events if isinstance(event, Resolved)]


def test_what_could_not_be_proved_is_an_error_that_carries_the_report(hub: MockHub, tmp_path: Path) -> None:
    hub.fault(Flip(offset=3), path="w.bin")
    with pytest.raises(fetchverify.IncompleteError) as caught:
        fetchverify.get("org/model", endpoint=hub.endpoint, cache_dir=tmp_path, token="")
    kinds = {outcome.path: outcome.kind for outcome in caught.value.report.outcomes}
    assert {"config.json": OutcomeKind.FETCHED, "w.bin": OutcomeKind.CORRUPT} == kinds
    assert 1 == caught.value.exit_code


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        fetchverify.nothing  # noqa: B018
