"""Small files asked for one behind another on a connection: each its own bytes, or a quiet end, never a hang."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.core.retry import Reason
from fetchverify.net.body import Body
from fetchverify.net.checks import TransferError
from fetchverify.net.transport import ByteClient
from tests.conformance.servers import Answer, Scripted, reset, say, scripted
from tests.conformance.test_transport import Trust, a_client, fin, quick, trust

__all__ = ["quick", "trust"]  # fixtures

CONTENTS = {f"part {number}.json": bytes([65 + number]) * (700 + number) for number in range(4)}
FILES = tuple(
    RemoteFile(path=RepoPath(path), size=len(data), digest=Digest(algo="git-sha1", hex="a" * 40), blob_id="a" * 40)
    for path, data in CONTENTS.items()
)
MANIFEST = Manifest(
    ref=RepoRef(kind="model", repo_id="org/model", revision="main"), commit=Commit("c" * 40), files=FILES
)
FIRST, SECOND, THIRD, FOURTH = CONTENTS.values()


@contextmanager
def serving(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[tuple[Scripted, ByteClient]]:
    scheme = "http" if tls is None else "https"
    with scripted(*answers, tls=tls) as server, a_client(f"{scheme}://127.0.0.1:{server.port}") as client:
        yield server, client


def part(data: bytes, *more: str) -> bytes:
    lines = [
        "HTTP/1.1 206 Partial Content",
        f"Content-Range: bytes 0-{len(data) - 1}/{len(data)}",
        f"Content-Length: {len(data)}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def moved(to: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def ask(client: ByteClient, body: Body, file: RemoteFile) -> None:
    with suppress(TransferError):  # the server may have hung up by now; what it sent before is read all the same
        body.ask_ahead(Block(0, file.size), file, client.url_of(MANIFEST, file))


def read(body: Body) -> bytes:
    into, done = memoryview(bytearray(body.file.size)), 0
    while done < len(into):
        done += body.fill(into[done:])
    return bytes(into)


def all_of(client: ByteClient) -> dict[str, bytes]:
    """Return what came, the first by a request of its own and all others asked for before it was read."""
    came: dict[str, bytes] = {}
    with client.open(MANIFEST, FILES[0], None, Block(0, FILES[0].size)) as body:
        assert body.takes_others
        assert body.can_ask_ahead
        for file in FILES[1:]:
            ask(client, body, file)
        while True:
            came[body.file.path] = read(body)
            if len(came) == len(FILES):
                body.finish()
                return came
            if not body.advance():
                return came


def works_as_before(client: ByteClient) -> None:
    with client.open(MANIFEST, FILES[0], None, Block(0, FILES[0].size)) as body:
        assert read(body) == FIRST
        body.finish()


def targets(heads: list[bytes]) -> list[str]:
    return [head.split(b" ")[1].decode() for head in heads]


RESOLVE = f"/org/model/resolve/{'c' * 40}/part%20"
CACHE = "/api/resolve-cache/x?etag=%22a%22"
HEADS_IN_PIECES = [bytes([byte]) for byte in part(SECOND)[:80]]
RIGHT: dict[str, list[Answer]] = {
    "one by one": [say(part(SECOND)), say(part(THIRD)), say(part(FOURTH))],
    "all in one segment": [say(), say(), say(part(SECOND) + part(THIRD) + part(FOURTH))],
    "a head with the begin of the next": [
        say(),
        say(part(SECOND), part(THIRD)[:30], pause_s=0.02),
        say(part(THIRD)[30:] + part(FOURTH)),
    ],
    "byte by byte": [
        say(*HEADS_IN_PIECES, part(SECOND)[80:], pause_s=0.0005),
        say(part(THIRD)),
        say(part(FOURTH)[:-1], part(FOURTH)[-1:], pause_s=0.02),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_all_come_on_one_connection_which_then_serves_others(name: str) -> None:
    with serving(say(part(FIRST)), *RIGHT[name], say(part(FIRST))) as (server, client):
        assert all_of(client) == CONTENTS
        works_as_before(client)
        assert server.connections == 1
        assert client.asks_ahead
        assert targets(server.heads) == [f"{RESOLVE}{number}.json" for number in (0, 1, 2, 3, 0)]
        lines = [line for head in server.heads for line in head.split(b"\r\n") if line.lower().startswith(b"range")]
        assert lines == [b"Range: bytes=0-%d" % (len(data) - 1) for data in (*CONTENTS.values(), FIRST)]


def test_over_tls(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    answers = [say(part(FIRST)), say(), say(), say(part(SECOND) + part(THIRD) + part(FOURTH))]
    with serving(*answers, tls=trust.server) as (server, client):
        assert all_of(client) == CONTENTS
        assert server.connections == 1


def test_where_the_endpoint_redirects_to_itself_the_file_is_asked_for_there() -> None:
    """Behind those that were asked for meanwhile: the order of answers is that of requests."""
    answers = [
        say(part(FIRST)),
        say(moved(CACHE, b"over there")),
        say(part(THIRD)),
        say(part(FOURTH)),
        say(part(SECOND)),
    ]
    with serving(*answers) as (server, client):
        assert all_of(client) == CONTENTS
        assert server.connections == 1
        assert targets(server.heads)[-1] == CACHE


ENDS: dict[str, Answer] = {
    "FIN": fin(),
    "RST": lambda sock, _: reset(sock),
    "a redirect to another host": say(moved("http://127.0.0.2:9/x")),
    "a redirect to what is no address": say(moved("http://user:password@127.0.0.1/")),
    "a redirect with an endless body": say(moved("/x").replace(b"Content-Length: 0", b"Content-Length: 999999999")),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_did_not_come_can_be_asked_for_again(name: str) -> None:
    with serving(say(part(FIRST)), say(part(SECOND)), ENDS[name], *[say(part(FIRST))] * 2) as (_server, client):
        assert all_of(client) == dict(list(CONTENTS.items())[:2])
        works_as_before(client)


def test_redirects_that_go_round_in_circles_end() -> None:
    with serving(say(part(FIRST)), *[say(moved("/round"))] * 60) as (server, client):
        assert all_of(client) == {FILES[0].path: FIRST}
        assert len(server.heads) < 50


CONTRADICTION = "X-Repo-Commit: " + "d" * 40
WRONG: dict[str, tuple[Answer, set[Reason]]] = {
    "404": (say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), {Reason.ABSENT}),
    "429": (say(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"), {Reason.BAD_STATUS}),
    "another commit": (say(part(THIRD, CONTRADICTION)), {Reason.CONTRADICTED}),
    "another file": (say(part(FOURTH)), {Reason.WRONG_RANGE}),
    "chunks": (
        say(part(THIRD).replace(b"Content-Length: 702", b"Transfer-Encoding: chunked")),
        {Reason.PROTOCOL},
    ),
    "silence": (lambda sock, _: time.sleep(3), {Reason.TIMEOUT}),
    "half a body": (fin(part(THIRD)[:-9]), {Reason.SHORT_BODY}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_typed_failure_and_a_connection_that_nobody_uses_again(name: str) -> None:
    answer, reasons = WRONG[name]
    with serving(say(part(FIRST)), say(part(SECOND)), answer) as (_server, client):
        began = time.monotonic()
        with pytest.raises(TransferError) as caught:
            all_of(client)
        assert caught.value.failure.reason in reasons
        assert time.monotonic() - began < 10


def test_what_nobody_waited_for_costs_its_connection() -> None:
    """Kept alive, it would be taken for the answer to the next request."""

    def both(sock: socket.socket, _: bytes) -> None:
        sock.sendall(part(SECOND))

    with serving(say(part(FIRST)), both, say(part(FIRST))) as (server, client):
        with client.open(MANIFEST, FILES[0], None, Block(0, FILES[0].size)) as body:
            ask(client, body, FILES[1])
            assert read(body) == FIRST
            while len(server.heads) < 2:
                time.sleep(0.001)
        works_as_before(client)
        assert server.connections == 2


def test_a_file_whose_name_is_odd_is_asked_for_as_httpx_would() -> None:
    odd = RemoteFile(
        path=RepoPath("ü/a b#c?d%20&=+.json"), size=5, digest=Digest(algo="git-sha1", hex="b" * 40), blob_id="b" * 40
    )
    with serving(say(part(FIRST)), say(part(b"12345")), say(part(b"12345"))) as (server, client):
        with client.open(MANIFEST, FILES[0], None, Block(0, FILES[0].size)) as body:
            ask(client, body, odd)
            read(body)
            assert body.advance()
            assert read(body) == b"12345"
            body.finish()
        with client.open(MANIFEST, odd, None, Block(0, 5)) as body:
            read(body)
        assert server.heads[1] == server.heads[2]


def test_bytes_that_trickle_are_given_out_before_many_came() -> None:
    """Over a long line a reader is woken for a piece; where the line becomes slow, for whatever came."""
    data = bytes(range(256)) * 1024
    file = RemoteFile(
        path=RepoPath("w.bin"), size=len(data), digest=Digest(algo="git-sha1", hex="b" * 40), blob_id="b" * 40
    )

    def answer(sock: socket.socket, _: bytes) -> None:
        time.sleep(0.02)  # a long line
        sock.sendall(part(data)[: -len(data)])
        sock.sendall(data[:200_000])
        for start in range(200_000, len(data), 8000):
            time.sleep(0.4)
            sock.sendall(data[start : start + 8000])

    with serving(answer) as (_server, client):
        with client.open(MANIFEST, file, None, Block(0, file.size)) as body:
            assert client.is_far
            into, done, calls = memoryview(bytearray(len(data))), 0, 0
            while done < len(data):
                began = time.monotonic()
                done += body.fill(into[done:])
                calls += 1
                assert time.monotonic() - began < 1.5
        assert bytes(into) == data
        assert calls > 3
