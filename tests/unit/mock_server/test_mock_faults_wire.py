"""Each fault, seen through a raw socket: no HTTP library smooths it over."""

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import pytest

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
    FileValue,
    Flip,
    Garbage,
    Gzip,
    HangUp,
    HtmlPage,
    IgnoreRange,
    Interim,
    KiB,
    Lengthen,
    MaxConnections,
    MiB,
    MockHub,
    NextPage,
    RedirectLoop,
    RedirectTo,
    RefuseKeepAlive,
    Replace,
    Rule,
    Seeded,
    SetHeaders,
    Shorten,
    Stall,
    Status,
    Swap,
    Trickle,
    World,
    WrongContentRange,
)
from mock_server.demo import demo_world
from mock_server.scenario import bundled

SIZE = 300 * KiB
FILE = "w.safetensors"


@dataclass(frozen=True)
class Reply:
    raw: bytes
    ended: Literal["fin", "reset", "silence"]

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    def header(self, name: str) -> str | None:
        for line in self.head.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name.lower():
                return value
        return None


@pytest.fixture(scope="module")
def demo() -> World:
    return demo_world()


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    files: dict[str, FileValue] = {
        FILE: Seeded(SIZE, "w"),
        "other.safetensors": Seeded(SIZE, "o"),
        "config.json": b'{"a": 1}',
    }
    world.add("acme/m", files)
    with MockHub(world) as hub:
        yield hub


def send(url: str, *headers: str, method: str = "GET", keep: bool = False) -> socket.socket:
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=5)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers, *([] if keep else ["Connection: close"]), "", ""]
    sock.sendall("\r\n".join(lines).encode())
    return sock


def receive(sock: socket.socket, *, timeout: float = 5) -> Reply:
    sock.settimeout(timeout)
    raw = b""
    try:
        while data := sock.recv(256 * KiB):
            raw += data
    except ConnectionResetError:
        return Reply(raw, "reset")
    except TimeoutError:
        return Reply(raw, "silence")
    return Reply(raw, "fin")


def ask(url: str, *headers: str, method: str = "GET") -> Reply:
    with send(url, *headers, method=method) as sock:
        return receive(sock)


def resolve_url(hub: MockHub, path: str = FILE) -> str:
    return f"{hub.endpoint}/acme/m/resolve/main/{path}"


def cdn_url(hub: MockHub) -> str:
    location = ask(resolve_url(hub), method="HEAD").header("location")
    assert location is not None
    return location


def original(start: int = 0, stop: int = SIZE) -> bytes:
    return Seeded(SIZE, "w").read(start, stop)


def tree_url(hub: MockHub) -> str:
    return f"{hub.endpoint}/api/models/acme/m/tree/main?recursive=true"


def hit(hub: MockHub, fault: Fault, *headers: str) -> Reply:
    """Ask the CDN for the file with a fault in force."""
    url = cdn_url(hub)
    hub.fault(fault, route="cdn")
    return ask(url, *headers)


def test_without_a_fault_nothing_is_wrong(hub: MockHub) -> None:
    reply = ask(cdn_url(hub), "Range: bytes=10-19")
    assert (206, original(10, 20), "fin") == (reply.status, reply.body, reply.ended)
    assert ("10", f"bytes 10-19/{SIZE}") == (reply.header("content-length"), reply.header("content-range"))


@pytest.mark.parametrize(("reset", "ended"), [(False, "fin"), (True, "reset")])
def test_cut_ends_the_body_after_so_many_bytes(hub: MockHub, reset: bool, ended: str) -> None:
    reply = hit(hub, Cut(after=100 * KiB, reset=reset))
    assert (200, str(SIZE), ended) == (reply.status, reply.header("content-length"), reply.ended)
    assert original(0, 100 * KiB) == reply.body
    assert 100 * KiB == hub.ledger.bytes_sent(FILE)


def test_stall_falls_silent_then_goes_on(hub: MockHub) -> None:
    url = cdn_url(hub)
    hub.fault(Stall(after=1000, seconds=0.3))
    with send(url) as sock:
        first = receive(sock, timeout=0.15)
        rest = receive(sock)
    assert (len(first.body), first.ended) == (1000, "silence")
    assert original() == first.body + rest.raw


def test_a_stall_ends_when_the_client_goes(hub: MockHub) -> None:
    hub.fault(Stall(after=10, seconds=3600))
    with send(cdn_url(hub)) as sock:
        receive(sock, timeout=0.1)
    deadline = time.monotonic() + 2
    while hub.ledger.requests(kind="cdn")[0].t_end is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hub.ledger.requests(kind="cdn")[0].t_end is not None


def test_trickle_sends_at_a_rate(hub: MockHub) -> None:
    begun = time.monotonic()
    reply = hit(hub, Trickle(rate=100_000), "Range: bytes=0-29999")
    assert original(0, 30_000) == reply.body
    assert 0.25 < time.monotonic() - begun < 1.5


def test_delay_holds_back_the_head(hub: MockHub) -> None:
    begun = time.monotonic()
    assert hit(hub, Delay(seconds=0.2)).status == 200
    assert time.monotonic() - begun >= 0.2


def test_a_wrong_content_range_is_announced(hub: MockHub) -> None:
    reply = hit(hub, WrongContentRange(shift=5), "Range: bytes=0-9")
    assert (206, f"bytes 5-14/{SIZE}", original(0, 10)) == (reply.status, reply.header("content-range"), reply.body)
    hub.clear_faults()
    reply = hit(hub, WrongContentRange(value="bytes 0-9/*"), "Range: bytes=0-9")
    assert reply.header("content-range") == "bytes 0-9/*"


def test_ignored_ranges_get_the_whole_file(hub: MockHub) -> None:
    reply = hit(hub, IgnoreRange(), "Range: bytes=0-9")
    assert (200, original(), None) == (reply.status, reply.body, reply.header("content-range"))


def test_a_shortened_body_says_so(hub: MockHub) -> None:
    reply = hit(hub, Shorten(by=3), "Range: bytes=0-9")
    assert ("7", original(0, 7)) == (reply.header("content-length"), reply.body)


def test_a_lengthened_body_says_so_or_not(hub: MockHub) -> None:
    reply = hit(hub, Lengthen(by=3), "Range: bytes=0-9")
    assert ("13", original(0, 13)) == (reply.header("content-length"), reply.body)
    hub.clear_faults()
    reply = hit(hub, Lengthen(by=3, honest=False), "Range: bytes=0-9")
    assert ("10", original(0, 10) + b"\0\0\0") == (reply.header("content-length"), reply.body)
    hub.clear_faults()
    assert original() + b"\0\0\0" == hit(hub, Lengthen(by=3)).body


def test_a_flip_is_at_an_absolute_offset(hub: MockHub) -> None:
    reply = hit(hub, Flip(offset=15, mask=0xFF), "Range: bytes=10-19")
    expected = bytearray(original(10, 20))
    expected[5] ^= 0xFF
    assert bytes(expected) == reply.body


def test_swapped_files_keep_their_headers(hub: MockHub) -> None:
    honest = ask(cdn_url(hub))
    reply = hit(hub, Swap(other="other.safetensors"))
    assert (honest.header("etag"), Seeded(SIZE, "o").read(0, SIZE)) == (reply.header("etag"), reply.body)
    hub.clear_faults()
    strange = hit(hub, Swap())
    assert len(strange.body) == SIZE
    assert strange.body not in (original(), reply.body)


def test_a_changed_etag_undoes_if_range(hub: MockHub) -> None:
    etag = ask(cdn_url(hub)).header("etag")
    reply = hit(hub, ChangeEtag(etag='"new"'), "Range: bytes=0-9", f"If-Range: {etag}")
    assert (200, '"new"', original()) == (reply.status, reply.header("etag"), reply.body)
    assert ask(cdn_url(hub), "Range: bytes=0-9", 'If-Range: "new"').status == 206


def test_changed_content_has_another_etag_and_perhaps_size(hub: MockHub) -> None:
    reply = hit(hub, ChangeContent(size=100))
    assert (reply.status, reply.header("content-length"), reply.header("etag")) == (200, "100", '"changed"')
    assert original(0, 100) != reply.body


def test_an_html_page_comes_with_status_200(hub: MockHub) -> None:
    reply = hit(hub, HtmlPage(), "Range: bytes=0-9")
    assert (reply.status, reply.header("content-type")) == (200, "text/html; charset=utf-8")
    assert reply.body.startswith(b"<!doctype html>")


def test_gzip_is_announced_and_real(hub: MockHub) -> None:
    reply = hit(hub, Gzip(), "Accept-Encoding: identity", "Range: bytes=0-999")
    assert ("gzip", original(0, 1000)) == (reply.header("content-encoding"), gzip.decompress(reply.body))


@pytest.mark.parametrize("code", [401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_statuses_are_sent(hub: MockHub, code: int) -> None:
    assert code == hit(hub, Status(code=code)).status


def test_a_status_carries_the_hubs_headers(hub: MockHub) -> None:
    fault = Status(code=429, error_code="X", message="why", retry_after=7, ratelimit='"api";r=0;t=55')
    reply = hit(hub, fault)
    names = ("x-error-code", "x-error-message", "retry-after", "ratelimit")
    assert [reply.header(name) for name in names] == ["X", "why", "7", '"api";r=0;t=55']
    assert reply.header("ratelimit-policy") is not None


def test_an_expired_signature_is_refused(hub: MockHub) -> None:
    reply = hit(hub, Expire())
    assert (reply.status, b"AccessDenied" in reply.body) == (403, True)


def test_headers_are_dropped_and_set(hub: MockHub) -> None:
    url = resolve_url(hub)
    hub.fault(DropHeaders(names=("X-Repo-Commit", "x-linked-size")))
    hub.fault(SetHeaders(headers={"X-Linked-Etag": '"lie"'}))
    reply = ask(url, method="HEAD")
    assert [reply.header(name) for name in ("X-Repo-Commit", "X-Linked-Size", "X-Linked-Etag")] == [None, None, '"lie"']


def test_a_lying_content_length_is_sent_as_it_is(hub: MockHub) -> None:
    reply = hit(hub, SetHeaders(headers={"Content-Length": "999999"}))
    assert ("999999", original()) == (reply.header("content-length"), reply.body)


def test_without_a_length_the_connection_ends_the_body(hub: MockHub) -> None:
    url = cdn_url(hub)
    hub.fault(DropHeaders(names=("Content-Length",)))
    with send(url, keep=True) as sock:
        reply = receive(sock)
    assert (None, original(), "fin") == (reply.header("content-length"), reply.body, reply.ended)


def test_redirects_loop(hub: MockHub) -> None:
    hub.fault(RedirectLoop(), route="resolve")
    reply = ask(resolve_url(hub) + "?download=true")
    assert (302, f"/acme/m/resolve/main/{FILE}?download=true") == (reply.status, reply.header("location"))


def test_a_redirect_elsewhere_shows_whether_authorization_was_carried(hub: MockHub) -> None:
    hub.fault(RedirectTo(to="other"), route="resolve")
    location = ask(resolve_url(hub), method="HEAD").header("location")
    assert f"{hub.other_endpoint}/acme/m/resolve/main/{FILE}" == location
    assert original() == ask(location, "Authorization: Bearer hf_demo").body
    assert [record.authorization for record in hub.ledger.requests(origin="other")] == [True]
    hub.clear_faults()
    hub.fault(RedirectTo(to="https://example.org/x", status=307))
    reply = ask(resolve_url(hub))
    assert (reply.status, reply.header("location")) == (307, "https://example.org/x")


def test_an_interim_response_comes_first(hub: MockHub) -> None:
    reply = hit(hub, Interim(), "Range: bytes=0-9")
    assert reply.raw.startswith(b"HTTP/1.1 103 ")
    assert reply.body.startswith(b"HTTP/1.1 206 ")


@pytest.mark.parametrize(("reset", "ended"), [(False, "fin"), (True, "reset")])
def test_close_sends_nothing(hub: MockHub, reset: bool, ended: str) -> None:
    reply = hit(hub, Close(reset=reset))
    assert (b"", ended) == (reply.raw, reply.ended)
    assert [record.status for record in hub.ledger.requests(kind="cdn")] == [0]


def test_garbage_is_not_http(hub: MockHub) -> None:
    assert hit(hub, Garbage(data="Hello?\n")).raw == b"Hello?\n"


def test_any_answer_can_be_replaced(hub: MockHub) -> None:
    hub.fault(Replace(status=201, headers={"X-A": "b"}, body="{"), route="tree")
    reply = ask(tree_url(hub))
    assert (reply.status, reply.header("x-a"), reply.header("content-length"), reply.body) == (201, "b", "1", b"{")


@pytest.mark.parametrize("to", ["self", "other", "http://example.org/next"])
def test_a_page_names_a_wrong_next_one(hub: MockHub, to: str) -> None:
    hub.fault(NextPage(to=to), route="tree")
    path = "/api/models/acme/m/tree/main?recursive=true"
    expected = {"self": hub.endpoint + path, "other": hub.other_endpoint + path}.get(to, to)
    assert f'<{expected}>; rel="next"' == ask(tree_url(hub)).header("link")


def test_a_chunked_body_has_no_length(hub: MockHub) -> None:
    reply = hit(hub, Chunked(), "Range: bytes=0-9")
    assert (reply.header("content-length"), reply.header("transfer-encoding")) == (None, "chunked")
    assert b"a\r\n" + original(0, 10) + b"\r\n0\r\n\r\n" == reply.body


@pytest.mark.parametrize(("fault", "said"), [(RefuseKeepAlive(), "close"), (HangUp(), None)])
def test_connections_are_not_kept(hub: MockHub, fault: Fault, said: str | None) -> None:
    hub.fault(fault)
    with send(resolve_url(hub), method="HEAD", keep=True) as sock:
        reply = receive(sock)
    assert (said, "fin") == (reply.header("connection"), reply.ended)


def test_too_many_connections_are_refused(hub: MockHub) -> None:
    url = cdn_url(hub)
    hub.fault(MaxConnections(limit=2, retry_after=1))
    hub.fault(Stall(after=0, seconds=3600), nth="first 2")
    with send(url), send(url):
        while len(hub.ledger.requests(kind="cdn")) < 2:
            time.sleep(0.005)
        assert ask(url).status == 429


def test_faults_mix_and_hit_where_they_are_aimed(hub: MockHub) -> None:
    url = cdn_url(hub)
    hub.fault(Rule(fault=Cut(after=5), nth=2))
    hub.fault(Flip(offset=0), covers=0)
    bodies = [ask(url, f"Range: bytes={start}-{start + 9}").body for start in (0, 10, 20)]
    flipped = bytes([original(0, 1)[0] ^ 1]) + original(1, 10)
    assert [flipped, original(10, 15), original(20, 30)] == bodies
    assert [record.faults for record in hub.ledger.requests(kind="cdn")] == [("flip",), ("cut",), ()]
    assert hub.ledger.ranges(FILE) == [(0, 10), (10, 20), (20, 30)]


def test_faults_reach_the_api_too(hub: MockHub) -> None:
    hub.fault(Cut(after=4), route="tree")
    assert len(ask(tree_url(hub)).body) == 4
    hub.clear_faults()
    assert len(json.loads(ask(tree_url(hub)).body)) == 3


def test_a_reset_does_not_swallow_what_was_sent_before() -> None:
    """On a real network the peer of a reset connection has most of the bytes: resuming needs them."""
    world = World()
    world.add("acme/m", {FILE: Seeded(16 * MiB, "w")})
    with MockHub(world, cdn=False) as hub:
        hub.fault(Cut(after=5 * MiB, reset=True))
        with send(resolve_url(hub)) as sock:
            time.sleep(0.05)
            reply = receive(sock)
        assert (5 * MiB, "reset") == (len(reply.body), reply.ended)


@pytest.mark.parametrize("name", bundled())
def test_every_bundled_scenario_strikes_a_plain_download_of_the_demo(demo: World, name: str) -> None:
    """A scenario whose rule matches nothing would test nothing."""
    with MockHub(demo) as hub:
        base, shards = f"{hub.endpoint}/demo/tiny-llama/resolve/main", [f"model-0000{n}-of-00002" for n in (1, 2)]
        api = f"{hub.endpoint}/api/models/demo/tiny-llama"
        location = ask(f"{base}/{shards[0]}.safetensors", method="HEAD").header("location") or ""
        hub.scenario(name)
        urls = [api, f"{api}/tree/main", f"{base}/config.json", f"{base}/README.md", *[location] * 2]
        urls += [f"{base}/{shard}.safetensors" for shard in shards]
        idle = [send(location, method="HEAD", keep=True) for _ in range(5 if name == "max-connections" else 0)]
        for url in urls:
            with contextlib.suppress(OSError), send(url, "Range: bytes=0-199999") as sock:
                receive(sock, timeout=0.05 if name in {"stall", "stall-head", "trickle", "delay"} else 5)
        for sock in idle:
            sock.close()
        assert [record for record in hub.ledger.requests() if record.faults]
