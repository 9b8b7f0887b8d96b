"""A range asked for while the one before arrives: the right bytes, a typed failure or a quiet end, never a hang."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from fetchverify.core.blocks import Block
from fetchverify.core.retry import Reason
from fetchverify.net.body import Body
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.transport import ByteClient
from tests.conformance.servers import Answer, http_proxy, reset, say, scripted
from tests.conformance.test_transport import (
    BODY,
    FILE,
    GOOD,
    LENGTH,
    MANIFEST,
    Trust,
    a_client,
    fetch,
    fin,
    head,
    quick,
    silent,
    trust,
)

__all__ = ["quick", "trust"]  # fixtures

HALF = len(BODY) // 2
FIRST, SECOND = Block(0, HALF), Block(HALF, len(BODY))


def part(span: Block, *more: str, status: str = "206 Partial Content") -> bytes:
    """Return an answer that is right for `span`."""
    length = f"Content-Length: {len(span)}"
    return head(length, *more, status=status, start=span.start, stop=span.stop) + BODY[span.start : span.stop]


def read(body: Body, span: Block) -> bytes:
    into, done = memoryview(bytearray(len(span))), 0
    while done < len(into):
        done += body.fill(into[done:])
    return bytes(into)


def both(client: ByteClient, port: int, scheme: str = "http") -> tuple[bytes, bytes | None]:
    """Return the first half, and the second one where it came behind it."""
    with client.open(MANIFEST, FILE, Source(url=f"{scheme}://127.0.0.1:{port}/w.bin", from_hub=False), FIRST) as body:
        assert body.can_ask_ahead
        into = memoryview(bytearray(1000))
        begun = bytes(into[: body.fill(into)])
        body.ask_ahead(SECOND)
        first = begun + read(body, Block(len(begun), HALF))
        if not body.advance():
            return first, None
        second = read(body, SECOND)
        body.finish()
        return first, second


def works_as_before(client: ByteClient, port: int) -> None:
    assert (BODY, True) == fetch(client, f"http://127.0.0.1:{port}/w.bin")


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
RIGHT: dict[str, Answer] = {
    "in one piece": say(part(SECOND)),
    "with its head byte by byte": say(*(bytes([b]) for b in part(SECOND)[:90]), part(SECOND)[90:], pause_s=0.0005),
    "after 103": say(INTERIM, INTERIM + part(SECOND), pause_s=0.02),
    "with the body in pieces": say(part(SECOND)[:-3], part(SECOND)[-3:], pause_s=0.02),
}


@pytest.mark.parametrize("name", RIGHT)
def test_both_come_on_one_connection_which_then_serves_others(name: str) -> None:
    with scripted(say(part(FIRST)), RIGHT[name], say(GOOD)) as server, a_client() as client:
        assert (BODY[:HALF], BODY[HALF:]) == both(client, server.port)
        works_as_before(client, server.port)
        assert 1 == server.connections
        ranges = [line for seen in server.heads for line in seen.lower().split(b"\r\n") if line.startswith(b"range")]
        asked = [FIRST, SECOND, Block(0, len(BODY))]
        assert [f"range: bytes={span.start}-{span.stop - 1}".encode() for span in asked] == ranges
        assert client.asks_ahead


def test_the_second_is_asked_for_before_the_first_ended() -> None:
    """Or a round trip would pass in silence: this server ends the first body only when it has the next request."""
    waited = threading.Event()

    def answer(sock: socket.socket, _: bytes) -> None:
        sock.sendall(part(FIRST)[:-1])
        assert sock.recv(65536, socket.MSG_PEEK).startswith(b"GET ")
        waited.set()
        sock.sendall(part(FIRST)[-1:])

    with scripted(answer, say(part(SECOND))) as server, a_client() as client:
        assert (BODY[:HALF], BODY[HALF:]) == both(client, server.port)
    assert waited.is_set()


def test_over_tls(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    with scripted(say(part(FIRST)), say(part(SECOND)), tls=trust.server) as server, a_client() as client:
        assert (BODY[:HALF], BODY[HALF:]) == both(client, server.port, "https")
        assert 1 == server.connections


ETAG = 'ETag: "one"'
PART_LENGTH = f"Content-Length: {HALF}".encode()
WRONG: dict[str, tuple[Answer, set[Reason]]] = {
    "429": (say(head("Content-Length: 0", status="429 Too Many Requests")), {Reason.BAD_STATUS}),
    "404": (say(head("Content-Length: 0", status="404 Not Found")), {Reason.EXPIRED}),
    "the first range once more": (say(part(FIRST)), {Reason.WRONG_RANGE}),
    "200": (say(head(LENGTH, status="200 OK") + BODY), {Reason.RANGE_IGNORED}),
    "another ETag": (say(part(SECOND, 'ETag: "two"')), {Reason.REMOTE_CHANGED}),
    "gzip": (say(part(SECOND, "Content-Encoding: gzip")), {Reason.ENCODED}),
    "chunks": (
        say(part(SECOND).replace(PART_LENGTH, b"Transfer-Encoding: chunked")),
        {Reason.PROTOCOL},
    ),
    "another length": (say(part(SECOND).replace(PART_LENGTH, b"Content-Length: 7")), {Reason.WRONG_LENGTH}),
    "no HTTP": (say(b"junk that was too much of the first\r\n\r\n"), {Reason.PROTOCOL}),
    "silence": (silent(), {Reason.TIMEOUT}),
    "half a head": (fin(part(SECOND)[:40]), {Reason.PROTOCOL}),
    "half a body": (fin(part(SECOND)[:-9]), {Reason.SHORT_BODY}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_typed_failure_and_a_connection_that_nobody_uses_again(name: str) -> None:
    answer, reasons = WRONG[name]
    with scripted(say(part(FIRST, ETAG)), answer, say(GOOD)) as server, a_client() as client:
        with pytest.raises(TransferError) as caught:
            both(client, server.port)
        assert caught.value.failure.reason in reasons
        works_as_before(client, server.port)
        assert 2 == server.connections


GONE: dict[str, Answer] = {
    "FIN": lambda sock, _: sock.shutdown(socket.SHUT_RDWR),
    "RST": lambda sock, _: reset(sock),
    "a redirect": say(head("Content-Length: 0", "Location: /elsewhere", status="302 Found")),
}


@pytest.mark.parametrize("name", GONE)
def test_a_connection_may_end_between_two_answers(name: str) -> None:
    """nginx does so after `keepalive_requests`; it is nobody's failure, what was asked ahead is asked again."""
    with scripted(say(part(FIRST)), GONE[name], say(GOOD)) as server, a_client() as client:
        assert (BODY[:HALF], None) == both(client, server.port)
        works_as_before(client, server.port)


def test_a_server_that_never_answers_what_is_sent_ahead_is_not_asked_so_for_ever() -> None:
    answers = [say(part(FIRST)), GONE["FIN"]] * 3
    with scripted(*answers, say(part(FIRST))) as server, a_client() as client:
        for _ in range(3):
            assert client.asks_ahead
            assert (BODY[:HALF], None) == both(client, server.port)
        assert not client.asks_ahead
        source = Source(url=f"http://127.0.0.1:{server.port}/w.bin", from_hub=False)
        with client.open(MANIFEST, FILE, source, FIRST) as body:
            assert not body.can_ask_ahead


def test_a_connection_that_is_going_to_close_is_not_asked() -> None:
    with scripted(say(part(FIRST, "Connection: close"))) as server, a_client() as client:
        source = Source(url=f"http://127.0.0.1:{server.port}/w.bin", from_hub=False)
        with client.open(MANIFEST, FILE, source, FIRST) as body:
            assert not body.can_ask_ahead
            assert BODY[:HALF] == read(body, FIRST)


def test_an_answer_that_nobody_waited_for_costs_its_connection() -> None:
    """Kept alive, it would be taken for the answer to the next request."""
    with scripted(say(part(FIRST)), say(part(SECOND)), say(GOOD)) as server, a_client() as client:
        source = Source(url=f"http://127.0.0.1:{server.port}/w.bin", from_hub=False)
        with client.open(MANIFEST, FILE, source, FIRST) as body:
            body.fill(memoryview(bytearray(1000)))
            body.ask_ahead(SECOND)
            read(body, Block(1000, HALF))
            while len(server.heads) < 2:
                time.sleep(0.001)
        works_as_before(client, server.port)
        assert 2 == server.connections


def test_nothing_is_sent_ahead_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(say(part(FIRST))) as server, http_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        source = Source(url=f"http://127.0.0.1:{server.port}/w.bin", from_hub=False)
        with a_client() as client, client.open(MANIFEST, FILE, source, FIRST) as body:
            assert not body.can_ask_ahead
