"""Several endpoints: bytes come from any, truth from the first alone, and whoever lies is named and left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from fetchverify.commands.get import GetOptions, run
from fetchverify.core.blocks import BLOCK_SIZE
from fetchverify.core.report import Report
from fetchverify.events import Event, FileStarted, Note
from mock_server import (
    Cut,
    DropHeaders,
    Flip,
    IgnoreRange,
    Match,
    MiB,
    MockHub,
    Rule,
    Seeded,
    SetHeaders,
    Status,
    Swap,
    Trickle,
    World,
)
from mock_server.world import FileValue

pytestmark = pytest.mark.anyio

BIG = Seeded(56 * MiB, seed="mirrors")
CONFIG = b'{"architectures": ["LlamaForCausalLM"]}\n'
FILES: dict[str, FileValue | None] = {"config.json": CONFIG, "w.bin": BIG}
TOKEN = "hf_insider"
BLOCKS = BIG.size // BLOCK_SIZE


def a_world() -> World:
    world = World()
    world.add("org/model", FILES)
    world.add("org/gated", FILES, gated=True, tokens=[TOKEN])
    return world


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough where sockets do the misbehaving; the liar is met on both."""
    return "asyncio"


@pytest.fixture
def hubs() -> Iterator[list[MockHub]]:
    """The first and two mirrors; slow enough that none takes it all."""
    with ExitStack() as stack:
        running = [stack.enter_context(MockHub(a_world())) for _ in range(3)]
        for hub in running:
            hub.fault(Trickle(rate=64 * MiB), path="w.bin")
        yield running


async def get(hubs: list[MockHub], tmp_path: Path, events: list[Event] | None = None, **more: object) -> Report:
    given = {
        "repo": "org/model",
        "endpoint": tuple(hub.endpoint for hub in hubs),
        "cache_dir": tmp_path,
        "token": "",
        "retries": 3,
        "connections": 6,
    }
    heard: list[Event] = [] if events is None else events
    with anyio.fail_after(60):
        report = await run(GetOptions(**{**given, **more}), heard.append)  # type: ignore[arg-type]
    assert isinstance(report, Report)
    return report


def whole(report: Report) -> bool:
    target = Path(report.target)
    return (target / "w.bin").read_bytes() == BIG.read(0, BIG.size) and (target / "config.json").read_bytes() == CONFIG


def kinds(report: Report) -> dict[str, str]:
    return {outcome.path: outcome.kind.value for outcome in report.outcomes}


def asked(hub: MockHub) -> list[int]:
    """Return the blocks that were asked for, whatever came of it, in order."""
    return [
        index
        for start, stop in hub.ledger.ranges("w.bin")
        for index in range(start // BLOCK_SIZE, -(-stop // BLOCK_SIZE))
    ]


def gave(hub: MockHub) -> int:
    return hub.ledger.bytes_sent("w.bin")


def place(hub: MockHub) -> str:
    return hub.endpoint.removeprefix("http://")


def notes(tmp_path: Path) -> list[dict[str, object]]:
    found = [json.loads(path.read_bytes()) for path in tmp_path.glob("*/.fetchverify/quarantine/*.json")]
    return [note for each in found for note in each["notes"]]


async def test_bytes_come_from_all_and_metadata_from_the_first(hubs: list[MockHub], tmp_path: Path) -> None:
    report = await get(hubs, tmp_path)
    assert (0, True, BIG.size + len(CONFIG), ()) == (
        report.exit_code,
        whole(report),
        report.bytes_fetched,
        report.liars,
    )
    assert all(gave(hub) > 0 for hub in hubs)
    for mirror in hubs[1:]:
        assert {"resolve", "cdn"} >= {record.kind for record in mirror.ledger.requests()}


async def test_a_faster_one_gives_more(hubs: list[MockHub], tmp_path: Path) -> None:
    for hub in hubs:
        hub.clear_faults()
    hubs[0].fault(Trickle(rate=4 * MiB), path="w.bin")
    hubs[1].fault(Trickle(rate=24 * MiB), path="w.bin")
    report = await get(hubs[:2], tmp_path)
    assert (0, True, BIG.size + len(CONFIG)) == (report.exit_code, whole(report), report.bytes_fetched)
    assert gave(hubs[1]) > gave(hubs[0])


async def test_the_token_goes_to_the_first_alone(hubs: list[MockHub], tmp_path: Path) -> None:
    """The mirrors refuse the gated repo: what they lack is fetched from the first."""
    report = await get(hubs, tmp_path, repo="org/gated", token=TOKEN)
    assert (0, True, ()) == (report.exit_code, whole(report), report.liars)
    assert any(record.authorization for record in hubs[0].ledger.requests(origin="hub"))
    assert [] == [record for hub in hubs[1:] for record in hub.ledger.requests() if record.authorization]
    assert [0, 0] == [gave(hub) for hub in hubs[1:]]
    assert all(len(mirror.ledger.requests()) < 10 for mirror in hubs[1:]), "a refusal is asked for once a line"


async def test_a_mirror_that_gives_bytes_gets_no_token(hubs: list[MockHub], tmp_path: Path) -> None:
    """Neither for small nor for large files."""
    first, mirror = hubs[:2]
    first.fault(Status(code=503), path="config.json", route="resolve")
    report = await get([first, mirror], tmp_path, token=TOKEN)
    assert (0, True) == (report.exit_code, whole(report))
    assert any(record.authorization for record in first.ledger.requests(origin="hub"))
    assert {"config.json", "w.bin"} == {record.file for record in mirror.ledger.requests()}
    assert [] == [record for record in mirror.ledger.requests() if record.authorization]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_liar_is_named_and_only_its_blocks_are_fetched_again(hubs: list[MockHub], tmp_path: Path) -> None:
    first, liar, honest = hubs
    for index in range(BLOCKS):
        liar.fault(Flip(offset=index * BLOCK_SIZE + 77), path="w.bin")
    events: list[Event] = []
    report = await get(hubs, tmp_path, events)
    assert (0, "refetched", True) == (report.exit_code, kinds(report)["w.bin"], whole(report))
    assert (place(liar),) == report.liars
    lied = set(asked(liar))
    assert 0 < len(lied) < BLOCKS
    assert lied == set(asked(first)) & lied, "each has a second copy from the first"
    again = report.bytes_fetched - BIG.size - len(CONFIG)
    # Nobody is suspected more than another: who gave the fewest blocks is looked at first.
    others = set(asked(honest)) if len(set(asked(honest))) < len(lied) else set()
    assert len(lied | others) * BLOCK_SIZE == again, "nothing else was paid for twice"
    assert [True] == [
        place(liar) in event.message for event in events if isinstance(event, Note) and "left out" in event.message
    ]
    (note,) = notes(tmp_path)
    assert (place(liar), sorted(lied)) == (note["host"], sorted(note["blocks"]))  # type: ignore[call-overload]
    assert place(liar) in (report.outcomes[1].detail or "")
    assert 1 == report.quarantined
    assert honest.endpoint not in str(report.liars)


async def test_a_lie_about_one_byte_costs_the_liars_blocks(hubs: list[MockHub], tmp_path: Path) -> None:
    first, liar = hubs[:2]
    for index in range(BLOCKS):
        liar.fault(Flip(offset=index * BLOCK_SIZE), path="w.bin", nth=1)
    report = await get([first, liar], tmp_path)
    assert (0, (place(liar),), True) == (report.exit_code, report.liars, whole(report))


async def test_the_first_may_lie_about_bytes(hubs: list[MockHub], tmp_path: Path) -> None:
    """Its metadata is trusted; its CDN may still be broken."""
    first, honest = hubs[:2]
    for index in range(BLOCKS):
        first.fault(Flip(offset=index * BLOCK_SIZE + 5), path="w.bin")
    report = await get([first, honest], tmp_path)
    assert (0, (place(first),), True) == (report.exit_code, report.liars, whole(report))


async def test_two_liars_in_their_own_blocks(hubs: list[MockHub], tmp_path: Path) -> None:
    for index in range(BLOCKS):
        for liar in hubs[1:]:
            liar.fault(Flip(offset=index * BLOCK_SIZE + 5), path="w.bin")
    report = await get(hubs, tmp_path)
    assert (0, {place(hub) for hub in hubs[1:]}, True) == (report.exit_code, set(report.liars), whole(report))


async def test_two_that_lie_alike_are_found_by_a_third(hubs: list[MockHub], tmp_path: Path) -> None:
    """Mirrors may read from one broken store: that two agree does not make it the file."""
    for index in range(BLOCKS):
        for liar in hubs[:2]:
            liar.fault(Flip(offset=index * BLOCK_SIZE + 5), path="w.bin")
    report = await get(hubs, tmp_path)
    assert (0, {place(hub) for hub in hubs[:2]}, True) == (report.exit_code, set(report.liars), whole(report))


async def test_where_all_agree_on_other_bytes_nothing_is_published(hubs: list[MockHub], tmp_path: Path) -> None:
    """Every block was seen twice: a third time is not paid for."""
    for hub in hubs[:2]:
        hub.fault(Flip(offset=3), path="w.bin")
    report = await get(hubs[:2], tmp_path)
    assert (1, "corrupt", False) == (report.exit_code, kinds(report)["w.bin"], report.published)
    assert 2 * BIG.size + len(CONFIG) == report.bytes_fetched
    assert () == report.liars, "nobody can say who"


async def test_a_liar_is_left_out_for_the_rest_of_the_run(tmp_path: Path) -> None:
    files: dict[str, FileValue | None] = {f"s{n}.bin": Seeded(16 * MiB, seed=str(n)) for n in range(12)}
    world = World()
    world.add("org/model", files)
    with MockHub(world) as first, MockHub(world) as liar:
        for hub in (first, liar):
            hub.fault(Trickle(rate=32 * MiB))
        for offset in (0, 8 * MiB):
            liar.fault(Flip(offset=offset))
        events: list[Event] = []
        report = await get([first, liar], tmp_path, events)
        assert (0, (place(liar),)) == (report.exit_code, report.liars)
        assert {"fetched", "refetched"} == set(kinds(report).values())
        found = next(n for n, event in enumerate(events) if isinstance(event, Note) and "left out" in event.message)
        later = {event.path for event in events[found:] if isinstance(event, FileStarted)}
        assert len(later) > 2
        assert set() == later & {record.file for record in liar.ledger.requests()}


async def test_a_small_file_is_asked_for_elsewhere_when_it_is_bad(hubs: list[MockHub], tmp_path: Path) -> None:
    hubs[0].fault(Swap(), path="config.json")
    report = await get(hubs[:2], tmp_path)
    assert (0, "refetched", (place(hubs[0]),), True) == (
        report.exit_code,
        kinds(report)["config.json"],
        report.liars,
        whole(report),
    )
    assert [place(hubs[0])] == [note["host"] for note in notes(tmp_path)]


async def test_a_small_file_is_asked_for_elsewhere_when_it_fails(hubs: list[MockHub], tmp_path: Path) -> None:
    hubs[0].fault(Status(code=503), path="config.json")
    report = await get(hubs[:2], tmp_path)
    assert (0, "fetched", True) == (report.exit_code, kinds(report)["config.json"], whole(report))


@pytest.mark.parametrize(
    "rules",
    [
        (Rule(fault=Status(code=404, error_code="EntryNotFound")),),
        (Rule(fault=Status(code=404, error_code="RepoNotFound")),),
        (Rule(fault=Status(code=401)),),
        (Rule(fault=Status(code=500)),),
        (Rule(fault=Status(code=429, retry_after=60)),),
        (Rule(fault=SetHeaders(headers={"X-Repo-Commit": "0" * 40}), match=Match(route="resolve")),),
        (Rule(fault=SetHeaders(headers={"X-Linked-Etag": "0" * 64}), match=Match(route="resolve")),),
        (Rule(fault=IgnoreRange(), match=Match(path="w.bin")),),
    ],
    ids=["no such file", "no such repo", "denied", "broken", "busy", "another commit", "another file", "no ranges"],
)
async def test_a_mirror_that_cannot_help_is_passed_over(
    rules: tuple[Rule, ...], hubs: list[MockHub], tmp_path: Path
) -> None:
    for rule in rules:
        hubs[1].fault(rule)
    report = await get(hubs[:2], tmp_path)
    assert (0, "fetched", True, ()) == (report.exit_code, kinds(report)["w.bin"], whole(report), report.liars)
    assert BIG.size + len(CONFIG) == report.bytes_fetched
    assert [*range(BLOCKS)] == sorted(set(asked(hubs[0])))


async def test_a_mirror_without_the_hubs_headers_gives_bytes(hubs: list[MockHub], tmp_path: Path) -> None:
    """They are proved anyway."""
    hubs[1].configure(cdn=False)
    hubs[1].fault(DropHeaders(names=("X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "ETag")))
    report = await get(hubs[:2], tmp_path)
    assert (0, True) == (report.exit_code, whole(report))
    assert gave(hubs[1]) > 0


async def test_a_mirror_that_dies_costs_only_its_unfinished_blocks(hubs: list[MockHub], tmp_path: Path) -> None:
    """What it gave is kept; the others carry on."""
    dying = hubs[1]
    began = 0

    def kill(event: Event) -> None:
        nonlocal began
        if type(event).__name__ == "Progress" and gave(dying) > 10 * MiB and not began:
            began = 1
            dying.close()

    given = GetOptions(
        repo="org/model",
        endpoint=tuple(hub.endpoint for hub in hubs),
        cache_dir=tmp_path,
        token="",
        retries=3,
        connections=6,
    )
    report = await run(given, kill)
    assert isinstance(report, Report)
    assert began
    assert (0, "fetched", True) == (report.exit_code, kinds(report)["w.bin"], whole(report))
    assert BIG.size + len(CONFIG) == report.bytes_fetched, "what landed of a block is gone on from"


async def test_the_first_may_die_once_it_told_what_there_is(hubs: list[MockHub], tmp_path: Path) -> None:
    hubs[0].fault(Status(code=503), route="resolve")
    report = await get(hubs[:2], tmp_path)
    assert (0, True, 0) == (report.exit_code, whole(report), gave(hubs[0]))


async def test_lines_that_break_everywhere_cost_nothing_twice(hubs: list[MockHub], tmp_path: Path) -> None:
    for hub in hubs:
        hub.fault(Cut(after=3 * MiB + 17, reset=True), path="w.bin")
    report = await get(hubs, tmp_path)
    assert (0, True, BIG.size + len(CONFIG)) == (report.exit_code, whole(report), report.bytes_fetched)


async def test_where_nobody_has_it_the_first_ones_word_counts(hubs: list[MockHub], tmp_path: Path) -> None:
    hubs[0].fault(Status(code=404, error_code="EntryNotFound"), path="w.bin", route="resolve")
    hubs[1].fault(Status(code=401), path="w.bin", route="resolve")
    report = await get(hubs[:2], tmp_path)
    assert (3, "absent") == (report.exit_code, kinds(report)["w.bin"])
    assert place(hubs[0]) in (report.outcomes[1].detail or "")


async def test_what_is_left_when_all_ignore_ranges_is_one_stream(hubs: list[MockHub], tmp_path: Path) -> None:
    for hub in hubs[:2]:
        hub.fault(IgnoreRange(), path="w.bin")
    report = await get(hubs[:2], tmp_path)
    assert (0, True) == (report.exit_code, whole(report))


async def test_a_run_goes_on_from_another_endpoint(hubs: list[MockHub], tmp_path: Path) -> None:
    """What an earlier run left may be a lie of whomever: it is held against the first's version."""
    first, liar = hubs[:2]
    for index in range(BLOCKS):
        liar.fault(Flip(offset=index * BLOCK_SIZE), path="w.bin")
    liar.fault(Status(code=503), path="w.bin", nth="from 4", route="cdn")
    assert 4 == (await get([liar], tmp_path, retries=1, connections=2)).exit_code
    report = await get([first, hubs[2]], tmp_path)
    assert (0, "refetched", True, ()) == (report.exit_code, kinds(report)["w.bin"], whole(report), report.liars)
