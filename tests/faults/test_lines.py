"""Bad lines: slow, dying and forbidden connections cost little, and never the truth."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
import trustme

from fetchverify.commands.get import GetOptions, run
from fetchverify.core.report import OutcomeKind, Report
from fetchverify.events import ignore
from mock_server import Cut, Delay, Flip, Match, MaxConnections, MiB, MockHub, Rule, Seeded, Trickle, World

pytestmark = pytest.mark.anyio

BIG = Seeded(160 * MiB, seed="lines")
DIGEST = hashlib.sha256(BIG.read(0, BIG.size)).hexdigest()


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", {"w.bin": BIG})
    with MockHub(world) as running:
        yield running


async def get(hub: MockHub, tmp_path: Path, connections: int = 8) -> Report:
    options = GetOptions(
        repo="org/model", endpoint=hub.endpoint, cache_dir=tmp_path, token="", retries=5, connections=connections
    )
    report = await run(options, ignore)
    assert isinstance(report, Report)
    return report


def on_disk(report: Report) -> str:
    return hashlib.sha256((Path(report.target) / "w.bin").read_bytes()).hexdigest()


async def test_a_slow_connection_does_not_hold_the_end_up(hub: MockHub, tmp_path: Path) -> None:
    """`stuck at 99 %`: 16 MiB at 256 KiB/s would take a minute. What came through it is not fetched again."""
    hub.fault(Trickle(rate=8 * MiB), path="w.bin")
    hub.fault(Trickle(rate=256 * 1024), path="w.bin", nth=3)
    began = time.monotonic()
    report = await get(hub, tmp_path)
    assert (0, DIGEST) == (report.exit_code, on_disk(report))
    assert time.monotonic() - began < 30
    assert report.bytes_fetched == BIG.size, "each byte was kept once"


async def test_connections_that_are_lost_again_and_again(hub: MockHub, tmp_path: Path) -> None:
    hub.fault(Cut(after=11 * MiB, reset=True), path="w.bin")
    report = await get(hub, tmp_path)
    assert (0, DIGEST, BIG.size) == (report.exit_code, on_disk(report), report.bytes_fetched)


async def test_a_server_that_allows_four_connections(hub: MockHub, tmp_path: Path) -> None:
    """429 above four: fewer connections, not a failure, and no storm of requests."""
    hub.fault(MaxConnections(limit=4), route="cdn")
    hub.fault(Delay(seconds=0.02), path="w.bin")
    hub.fault(Trickle(rate=16 * MiB), path="w.bin")
    report = await get(hub, tmp_path, connections=16)
    assert (0, DIGEST) == (report.exit_code, on_disk(report))
    assert len(hub.ledger.requests(status=429)) < 60


@pytest.mark.parametrize("connections", [1, 3])
async def test_no_more_requests_at_once_than_asked_for(hub: MockHub, tmp_path: Path, connections: int) -> None:
    hub.fault(Delay(seconds=0.1), path="w.bin")
    hub.fault(Trickle(rate=48 * MiB), path="w.bin")
    report = await get(hub, tmp_path, connections)
    assert (0, DIGEST, BIG.size) == (report.exit_code, on_disk(report), report.bytes_fetched)
    assert connections == most_at_once(hub)


def most_at_once(hub: MockHub) -> int:
    """Return how many requests for bytes were under way at once."""
    moments = [
        moment
        for request in hub.ledger.requests(kind="cdn")
        if request.method == "GET" and request.t_end is not None
        for moment in ((request.t_start, 1), (request.t_end, -1))
    ]
    return max(accumulate(change for _, change in sorted(moments)))


async def test_a_slow_liar_beside_fast_truth(hub: MockHub, tmp_path: Path) -> None:
    """One writer a block: what the liar's connection still sends after its block went elsewhere is dropped.

    Its first bytes did land. The digest finds that, whatever the mixture on disk, and truth is fetched again.
    """
    hub.fault(Rule(fault=Trickle(rate=8 * MiB), match=Match(path="w.bin")))
    liar = Match(path="w.bin", covers=0)
    hub.fault(Rule(fault=Trickle(rate=200 * 1024), match=liar, nth=1))
    hub.fault(Rule(fault=Flip(offset=100), match=liar, nth=1))
    report = await get(hub, tmp_path)
    assert (0, DIGEST) == (report.exit_code, on_disk(report))
    starts = [start for start, _ in hub.ledger.ranges("w.bin")]
    taken_over = next(number for number, start in enumerate(starts) if 0 < start < 8 * MiB)
    assert 0 in starts[taken_over:], "the block changed hands amid its bytes, and was fetched again from its first"
    (outcome,) = report.outcomes
    assert OutcomeKind.REFETCHED is outcome.kind


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockHub]:
    authority, context, world = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), World()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    world.add("org/model", {"w.bin": BIG})
    with MockHub(world, ssl_context=context) as running:
        yield running


async def test_slow_connections_over_tls(secure: MockHub, tmp_path: Path) -> None:
    """To give one up is to shut its socket down under the feet of the thread that reads."""
    secure.fault(Trickle(rate=8 * MiB), path="w.bin")
    for nth in (2, 4, 6):
        secure.fault(Trickle(rate=100 * 1024), path="w.bin", nth=nth)
    report = await get(secure, tmp_path)
    assert (0, DIGEST, BIG.size) == (report.exit_code, on_disk(report), report.bytes_fetched)


async def test_small_files_behind_redirects_share_connections_to_the_hub(tmp_path: Path) -> None:
    """On the Hub each file in LFS is a redirect; a handshake for each would cost more than the file."""
    world = World()
    world.add("org/model", {f"{number}.bin": Seeded(2000, seed=f"{number}") for number in range(120)})
    with MockHub(world) as hub:
        report = await get(hub, tmp_path)
        assert (0, 120) == (report.exit_code, len(hub.ledger.requests(kind="cdn", method="GET")))
        assert len(hub.ledger.connections("hub")) <= 17, "one for the listing, and two a connection asked for"
        assert len(hub.ledger.connections("cdn")) <= 16


async def test_one_address_a_file_and_one_version_of_it(hub: MockHub, tmp_path: Path) -> None:
    """A resolve a block would spend the Hub's quota; `If-Range` has a changed file answered whole, not spliced."""
    report = await get(hub, tmp_path)
    assert 0 == report.exit_code
    assert 1 == len(hub.ledger.requests(kind="resolve"))
    asked = hub.ledger.requests(kind="cdn", method="GET")
    assert len(asked) > 3
    assert len(hub.ledger.connections("cdn")) <= 8, "kept alive"
    sent = [request.if_range for request in asked]
    assert {None, hub.ledger.requests(kind="cdn")[-1].if_range} == set(sent)
    assert (sent[-1] or "").startswith('"')
    assert sent.count(None) <= 8, "of the requests that were sent before the first answer came"
