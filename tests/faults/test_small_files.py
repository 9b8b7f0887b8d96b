"""Many small files, asked for one behind another: each once, its own bytes, whatever becomes of a connection."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fetchverify.commands.get import GetOptions, run
from fetchverify.core.report import OutcomeKind, Report
from fetchverify.events import ignore
from mock_server import (
    Chunked,
    Close,
    Cut,
    Delay,
    Flip,
    HangUp,
    IgnoreRange,
    MaxConnections,
    MockHub,
    RefuseKeepAlive,
    Status,
    World,
)

pytestmark = pytest.mark.anyio

COUNT = 240
CHANCE = random.Random(7)
FILES = {
    f"part-{number:03d}.json": b"%03d" % number + CHANCE.randbytes(CHANCE.choice((0, 30, 900, 20_000)))
    for number in range(COUNT)
}


@pytest.fixture
def world() -> World:
    world = World()
    world.add("org/model", FILES)
    return world


async def get(hub: MockHub, tmp_path: Path, connections: int = 16) -> Report:
    options = GetOptions(
        repo="org/model", endpoint=hub.endpoint, cache_dir=tmp_path, token="", retries=5, connections=connections
    )
    report = await run(options, ignore)
    assert isinstance(report, Report)
    assert report.exit_code == 0, report.as_json()
    for path, content in FILES.items():
        assert (Path(report.target) / path).read_bytes() == content, path
    return report


def asked(hub: MockHub) -> list[str]:
    return sorted(str(record.file) for record in hub.ledger.requests(kind="resolve", method="GET"))


async def test_each_is_asked_for_once_over_few_connections(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        report = await get(hub, tmp_path)
        assert asked(hub) == sorted(FILES)
        assert report.bytes_fetched == sum(map(len, FILES.values()))
        assert len(hub.ledger.connections("hub")) <= 1 + 32


async def test_over_a_long_line(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        hub.fault(Delay(seconds=0.02), route="resolve")
        await get(hub, tmp_path)
        assert asked(hub) == sorted(FILES)
        assert len(hub.ledger.connections("hub")) <= 1 + 32


async def test_with_one_connection(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        await get(hub, tmp_path, connections=1)
        assert asked(hub) == sorted(FILES)
        assert len(hub.ledger.connections("hub")) <= 1 + 2


@pytest.mark.parametrize(
    "fault", [RefuseKeepAlive(), HangUp(), Close(reset=True)], ids=lambda fault: type(fault).__name__
)
async def test_connections_that_close_cost_little(world: World, tmp_path: Path, fault: object) -> None:
    """Every tenth answer is a connection's last. What was asked for behind it is asked for again, and once."""
    with MockHub(world) as hub:
        for nth in range(10, 400, 10):
            hub.fault(fault, route="resolve", nth=nth)  # type: ignore[arg-type]
        await get(hub, tmp_path)
        assert set(asked(hub)) == set(FILES)
        assert len(asked(hub)) < 2 * COUNT


async def test_a_server_that_never_keeps_a_connection(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        hub.fault(HangUp(), route="resolve")
        await get(hub, tmp_path)


async def test_one_bad_answer_is_one_files_matter(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        hub.fault(Flip(offset=0), path="part-017.json", nth=1)
        hub.fault(Cut(after=0, reset=True), path="part-050.json", nth=1)
        hub.fault(Status(code=500), path="part-090.json", nth=1)
        hub.fault(Chunked(), path="part-130.json")
        hub.fault(IgnoreRange(), path="part-170.json")
        report = await get(hub, tmp_path)
        again = {outcome.path for outcome in report.outcomes if outcome.kind is OutcomeKind.REFETCHED}
        assert again == {"part-017.json"}


async def test_what_is_gone_is_one_files_failure(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        hub.fault(Status(code=404, error_code="EntryNotFound"), path="part-100.json")
        options = GetOptions(repo="org/model", endpoint=hub.endpoint, cache_dir=tmp_path, token="", retries=2)
        report = await run(options, ignore)
        assert isinstance(report, Report)
        bad = {outcome.path: outcome.kind for outcome in report.outcomes if outcome.kind is not OutcomeKind.FETCHED}
        assert bad == {"part-100.json": OutcomeKind.ABSENT}


async def test_a_server_that_bears_four_connections(world: World, tmp_path: Path) -> None:
    with MockHub(world) as hub:
        hub.fault(MaxConnections(limit=4), route="resolve")
        await get(hub, tmp_path)
