"""Every way a server, a CDN or a line can fail: the right file afterwards, or a typed failure and nothing published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fetchverify.commands.get import GetOptions, run
from fetchverify.core.report import OutcomeKind, Report
from fetchverify.events import Event
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from fetchverify.store.quarantine import Quarantine
from mock_server import (
    ChangeContent,
    ChangeEtag,
    Chunked,
    Close,
    Cut,
    Delay,
    DropHeaders,
    Expire,
    Fault,
    Flip,
    Garbage,
    Gzip,
    HangUp,
    HtmlPage,
    IgnoreRange,
    Interim,
    Lengthen,
    Match,
    MaxConnections,
    MiB,
    MockHub,
    RedirectLoop,
    RedirectTo,
    RefuseKeepAlive,
    Rule,
    Seeded,
    SetHeaders,
    Shorten,
    Status,
    Swap,
    Trickle,
    World,
    WrongContentRange,
)
from mock_server.world import FileValue

pytestmark = pytest.mark.anyio

CONFIG = b'{"architectures": ["LlamaForCausalLM"]}\n'
BIG = Seeded(20 * MiB, seed="w")
LIE = "9" * 64
FILES: dict[str, FileValue | None] = {"config.json": CONFIG, "w.bin": BIG, "tiny.bin": b"x" * 5000}


def a_world() -> World:
    world = World()
    world.add("org/model", FILES)
    return world


@pytest.fixture
def hub() -> Iterator[MockHub]:
    with MockHub(a_world()) as running:
        yield running


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault and how the run must end; `outcome` is that of the file it hits."""

    id: str
    rules: tuple[Rule, ...]
    exit_code: int = 0
    outcome: OutcomeKind = OutcomeKind.FETCHED
    file: str = "w.bin"
    connections: int = 16


def on(fault: Fault, nth: int | list[int] | str = 1, **match: object) -> Rule:
    return Rule(fault=fault, match=Match(**{"path": "w.bin", **match}), nth=nth)  # type: ignore[arg-type]


def healed(id_: str, *rules: Rule, outcome: OutcomeKind = OutcomeKind.FETCHED, **more: object) -> Case:
    return Case(id=id_, rules=rules, outcome=outcome, **more)  # type: ignore[arg-type]


def fails(id_: str, exit_code: int, outcome: OutcomeKind, *rules: Rule, **more: object) -> Case:
    return Case(id=id_, rules=rules, exit_code=exit_code, outcome=outcome, **more)  # type: ignore[arg-type]


CORRUPT, REFETCHED, DENIED = OutcomeKind.CORRUPT, OutcomeKind.REFETCHED, OutcomeKind.DENIED
CONTRADICTED, ABSENT, UNREACHABLE = OutcomeKind.CONTRADICTED, OutcomeKind.ABSENT, OutcomeKind.UNREACHABLE

ONCE = [
    healed("cut by FIN in the first block", on(Cut(after=3 * MiB + 17))),
    healed("cut by FIN at a block's end", on(Cut(after=8 * MiB))),
    healed("cut by FIN before the body", on(Cut(after=0))),
    healed("cut by RST", on(Cut(after=5 * MiB, reset=True))),
    healed("RST on the first three tries", on(Cut(after=0, reset=True), "first 3")),
    healed("cut on the first three tries", on(Cut(after=MiB), "first 3")),
    healed("500 on the first three tries", on(Status(code=500), "first 3", route="cdn")),
    *(healed(f"{code} once", on(Status(code=code), route="cdn")) for code in (408, 500, 502, 503, 504)),
    healed("429 with Retry-After", on(Status(code=429, retry_after=1), route="cdn")),
    healed("429 with RateLimit", on(Status(code=429, ratelimit='"resolvers";r=0;t=1'), route="cdn")),
    healed("429 at the resolver", on(Status(code=429, retry_after=1), route="resolve")),
    healed("closed without an answer", on(Close(), route="cdn")),
    healed("reset without an answer", on(Close(reset=True), route="cdn")),
    healed("garbage instead of HTTP", on(Garbage(), route="cdn")),
    healed("kept connections hang up in silence", on(HangUp(), "every")),
    healed("keep-alive refused", on(RefuseKeepAlive(), "every")),
    healed("a body shorter than its range", on(Shorten(by=5))),
    healed("a body longer than its range, honestly", on(Lengthen(by=5))),
    healed("a body longer than its Content-Length", on(Lengthen(by=5, honest=False), "every")),
    healed("a Content-Range that is off", on(WrongContentRange(shift=1))),
    healed("no Content-Range that could be read", on(WrongContentRange(value="bytes what?"))),
    healed("200 to one range", on(IgnoreRange())),
    healed("200 to every range", on(IgnoreRange(), "every")),
    healed("gzip once", on(Gzip())),
    healed("an HTML page once", on(HtmlPage(), route="cdn")),
    healed("chunks without a length", on(Chunked(), "every")),
    healed("103 before the final head", on(Interim(), "every", route="cdn")),
    healed("a late head", on(Delay(seconds=0.3), route="cdn")),
    healed("a trickle for a while", on(Trickle(rate=4 * MiB))),
    healed("an expired signature", on(Expire(), route="cdn")),
    healed("signatures that expire in the middle", on(Expire(), [2, 3], route="cdn")),
    healed("another ETag between two ranges", on(ChangeEtag(), 2)),
    healed("another ETag for a while", on(ChangeEtag(), [2, 3])),
    healed("other content under another ETag in passing", on(ChangeContent(), 2), connections=1),
    healed("a flipped byte once", on(Flip(offset=9 * MiB), covers=9 * MiB), outcome=REFETCHED),
    healed("strange bytes of the right size once", on(Swap()), outcome=REFETCHED),
    healed("a redirect to a third host", on(RedirectTo(to="other"), "every", route="cdn")),
    healed("a mirror without X-Repo-Commit", on(DropHeaders(names=("x-repo-commit",)), "every")),
    healed(
        "a mirror without any of the Hub's headers",
        on(DropHeaders(names=("x-repo-commit", "x-linked-etag", "x-linked-size", "etag")), "every", path=None),
    ),
    healed("a server that allows two connections", on(MaxConnections(limit=2), "every", route="cdn")),
    healed("a small file cut short", on(Cut(after=7), path="config.json"), file="config.json"),
    healed("a small file's 500", on(Status(code=500), "first 3", path="config.json"), file="config.json"),
    healed("a small file flipped once", on(Flip(offset=3), path="config.json"), outcome=REFETCHED, file="config.json"),
    healed("a small LFS file flipped once", on(Flip(offset=3), path="tiny.bin"), outcome=REFETCHED, file="tiny.bin"),
    healed("200 to a small file's range", on(IgnoreRange(), path="config.json"), file="config.json"),
    healed("a small LFS file's signature expired", on(Expire(), path="tiny.bin", route="cdn"), file="tiny.bin"),
]


def lie(headers: dict[str, str], **match: object) -> Rule:
    return on(SetHeaders(headers=headers), "every", **match)


ALWAYS = [
    fails("a byte flipped always", 1, CORRUPT, on(Flip(offset=9 * MiB), "every")),
    fails("strange bytes always", 1, CORRUPT, on(Swap(), "every")),
    fails(
        "a small file flipped always", 1, CORRUPT, on(Flip(offset=3), "every", path="config.json"), file="config.json"
    ),
    fails("another digest in X-Linked-Etag", 1, CONTRADICTED, lie({"X-Linked-Etag": f'"{LIE}"'}, route="resolve")),
    fails("another size in X-Linked-Size", 1, CONTRADICTED, lie({"X-Linked-Size": "7"}, route="resolve")),
    fails("another commit in X-Repo-Commit", 1, CONTRADICTED, lie({"X-Repo-Commit": "8" * 40}, route="resolve")),
    fails(
        "a small file's other ETag",
        1,
        CONTRADICTED,
        lie({"ETag": f'"{"8" * 40}"'}, path="config.json"),
        file="config.json",
    ),
    fails(
        "404 from the resolver", 3, ABSENT, on(Status(code=404, error_code="EntryNotFound"), "every", route="resolve")
    ),
    fails("401 from the resolver", 3, DENIED, on(Status(code=401), "every", route="resolve")),
    fails("403 from the resolver", 3, DENIED, on(Status(code=403, error_code="GatedRepo"), "every", route="resolve")),
    fails("500 always", 4, UNREACHABLE, on(Status(code=500), "every", route="cdn")),
    fails("reset always", 4, UNREACHABLE, on(Close(reset=True), "every", route="cdn")),
    fails("an HTML page always", 4, UNREACHABLE, on(HtmlPage(), "every", route="cdn")),
    fails("gzip always", 4, UNREACHABLE, on(Gzip(), "every")),
    fails("a Content-Range that is always off", 4, UNREACHABLE, on(WrongContentRange(), "every")),
    fails("a redirect loop", 4, UNREACHABLE, on(RedirectLoop(), "every", route="cdn")),
]


def names(cases: list[Case]) -> list[str]:
    return [case.id.replace(" ", "-") for case in cases]


async def get(hub: MockHub, tmp_path: Path, events: list[Event] | None = None, **options: object) -> Report:
    seen: list[Event] = [] if events is None else events
    chosen = GetOptions(
        repo="org/model",
        endpoint=hub.endpoint,
        cache_dir=tmp_path / "cache",
        token="",
        retries=5,
        **options,  # type: ignore[arg-type]
    )
    report = await run(chosen, seen.append)
    assert isinstance(report, Report)
    return report


def quarantine_of(tmp_path: Path) -> Quarantine:
    return Quarantine(Disk(), HubCache.for_repo(Disk(), tmp_path / "cache", "model", "org/model").area)


def outcomes(report: Report) -> dict[str, OutcomeKind]:
    return {outcome.path: outcome.kind for outcome in report.outcomes}


@pytest.mark.parametrize("case", ONCE, ids=names(ONCE))
async def test_the_file_is_right_in_the_end(case: Case, hub: MockHub, tmp_path: Path) -> None:
    """Network, CDN and proxies fail in passing: that is no reason to fail a download."""
    for rule in case.rules:
        hub.fault(rule)
    report = await get(hub, tmp_path, connections=case.connections)
    expected = dict.fromkeys(["config.json", "tiny.bin", "w.bin"], OutcomeKind.FETCHED) | {case.file: case.outcome}
    assert (0, True, expected) == (report.exit_code, report.published, outcomes(report))
    target = Path(report.target)
    assert BIG.read(0, BIG.size) == (target / "w.bin").read_bytes()
    assert (CONFIG, b"x" * 5000) == ((target / "config.json").read_bytes(), (target / "tiny.bin").read_bytes())
    assert (1 if case.outcome is REFETCHED else 0) == report.quarantined


@pytest.mark.parametrize("case", ALWAYS, ids=names(ALWAYS))
async def test_a_lasting_fault_ends_typed_and_publishes_nothing(case: Case, hub: MockHub, tmp_path: Path) -> None:
    """Exit codes are what scripts branch on; a wrong file must not even exist."""
    for rule in case.rules:
        hub.fault(rule)
    report = await get(hub, tmp_path)
    expected = dict.fromkeys(["config.json", "tiny.bin", "w.bin"], OutcomeKind.FETCHED) | {case.file: case.outcome}
    assert (case.exit_code, False, expected) == (report.exit_code, report.published, outcomes(report))
    assert not (Path(report.target) / case.file).exists()
    assert not (Path(report.target).parents[1] / "refs" / "main").exists()
    assert all(outcome.detail for outcome in report.outcomes if outcome.path == case.file)
