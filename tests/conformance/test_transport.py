"""The byte transport against everything a peer may say: the right bytes or a typed failure, never a hang."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import huggingface_hub.constants
import pytest
import trustme

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.core.retry import Reason
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.transport import ByteClient
from fetchverify.net.wire import Endpoint
from mock_server import MiB, MockHub, Seeded, World
from tests.conformance.servers import Answer, http_proxy, read_head, reset, say, scripted, socks_proxy

BODY = random.Random(0).randbytes(300_000)
FILE = RemoteFile(path=RepoPath("w.bin"), size=len(BODY), digest=Digest(algo="sha256", hex="a" * 64), blob_id="b" * 40)
MANIFEST = Manifest(
    ref=RepoRef(kind="model", repo_id="org/model", revision="main"), commit=Commit("c" * 40), files=(FILE,)
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short deadlines, and no proxy of whoever runs this."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 2)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def a_client(endpoint: str = "http://127.0.0.1:1") -> Iterator[ByteClient]:
    client = ByteClient(Endpoint(url=endpoint), connections=8, count=lambda: None)
    try:
        yield client
    finally:
        client.close()


def fetch(client: ByteClient, url: str, start: int = 0, stop: int = len(BODY)) -> tuple[bytes, bool]:
    """Return the bytes of a range, and whether they were read off the socket."""
    into, done = memoryview(bytearray(stop - start)), 0
    with client.open(MANIFEST, FILE, Source(url=url, from_hub=False), Block(start, stop)) as body:
        while done < len(into):
            done += body.fill(into[done:])
        body.finish()
        return bytes(into), body.detached


def reason_of(client: ByteClient, url: str) -> Reason:
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        fetch(client, url)
    assert time.monotonic() - began < 10
    return caught.value.failure.reason


def head(*more: str, status: str = "206 Partial Content", start: int = 0, stop: int = len(BODY)) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Range: bytes {start}-{stop - 1}/{len(BODY)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


LENGTH = f"Content-Length: {len(BODY)}"
GOOD = head(LENGTH) + BODY

RIGHT: dict[str, tuple[Answer, bool]] = {
    "all at once": (say(GOOD), True),
    "the head byte by byte": (say(*(bytes([b]) for b in head(LENGTH)), BODY, pause_s=0.0005), True),
    "the body in pieces": (say(head(LENGTH), BODY[:7], BODY[7:], pause_s=0.02), True),
    "103 before": (say(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", GOOD, pause_s=0.02), True),
    "100 and two 103 in one segment": (
        say(b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" * 2 + GOOD),
        True,
    ),
    "a long head": (say(head(LENGTH, *(f"X-{i}: {'y' * 900}" for i in range(90))) + BODY), True),
    "two equal lengths": (say(head(LENGTH, LENGTH) + BODY), False),
    "chunks": (say(head("Transfer-Encoding: chunked") + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"), False),
    "HTTP/1.0": (say(GOOD.replace(b"HTTP/1.1", b"HTTP/1.0", 1)), False),
    "more than its Content-Length": (say(GOOD + b"junk"), True),
    "more than its Content-Length in one segment": (say(head(LENGTH), BODY[:-1], BODY[-1:] + b"junk"), True),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_bytes(name: str) -> None:
    """And the next request on the same client is right as well, on whichever connection."""
    answer, detached = RIGHT[name]
    with scripted(answer, say(GOOD)) as server, a_client() as client:
        url = f"http://127.0.0.1:{server.port}/w.bin"
        assert (BODY, detached) == fetch(client, url)
        assert BODY == fetch(client, url)[0]


def fin(*pieces: bytes) -> Answer:
    def answer(sock: socket.socket, _: bytes) -> None:
        say(*pieces)(sock, b"")
        sock.shutdown(socket.SHUT_RDWR)

    return answer


def rst(*pieces: bytes) -> Answer:
    def answer(sock: socket.socket, _: bytes) -> None:
        say(*pieces, pause_s=0.05)(sock, b"")
        reset(sock)

    return answer


def silent(*pieces: bytes) -> Answer:
    def answer(sock: socket.socket, _: bytes) -> None:
        say(*pieces)(sock, b"")
        sock.recv(1)

    return answer


NO_LENGTH = {Reason.PROTOCOL, Reason.RESET, Reason.WRONG_LENGTH}
H2_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8)
WRONG: dict[str, tuple[Answer, set[Reason]]] = {
    "FIN in the body": (fin(head(LENGTH), BODY[:1000]), {Reason.SHORT_BODY}),
    "FIN before the body": (fin(head(LENGTH)), {Reason.SHORT_BODY}),
    "FIN in the head": (fin(head(LENGTH)[:30]), {Reason.RESET, Reason.PROTOCOL, Reason.SHORT_BODY}),
    "RST in the body": (rst(head(LENGTH), BODY[:1000]), {Reason.RESET, Reason.SHORT_BODY}),
    "RST at once": (rst(), {Reason.RESET}),
    "silence in the body": (silent(head(LENGTH), BODY[:1000]), {Reason.TIMEOUT}),
    "silence": (silent(), {Reason.TIMEOUT}),
    "two lengths": (say(head(LENGTH, "Content-Length: 5") + BODY), NO_LENGTH),
    "a negative length": (say(head("Content-Length: -5") + BODY), NO_LENGTH),
    "a signed length": (say(head("Content-Length: +5") + BODY), NO_LENGTH),
    "another length": (say(head("Content-Length: 5") + BODY[:5]), {Reason.WRONG_LENGTH}),
    "gzip": (say(head(LENGTH, "Content-Encoding: gzip") + BODY), {Reason.ENCODED}),
    "another range": (say(head(LENGTH, start=1, stop=len(BODY) + 1) + BODY), {Reason.WRONG_RANGE}),
    "204": (say(b"HTTP/1.1 204 No Content\r\n\r\n"), {Reason.PROTOCOL}),
    "HTTP/2 only": (fin(H2_SETTINGS), {Reason.RESET, Reason.PROTOCOL}),
    "no HTTP": (fin(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), {Reason.RESET, Reason.PROTOCOL}),
    "a head without end": (fin(*([b"X: " + b"y" * 60_000 + b"\r\n"] * 3)), {Reason.RESET, Reason.PROTOCOL}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_typed_failure_and_then_the_right_bytes(name: str) -> None:
    answer, reasons = WRONG[name]
    with scripted(answer, say(GOOD)) as server, a_client() as client:
        url = f"http://127.0.0.1:{server.port}/w.bin"
        assert reason_of(client, url) in reasons
        assert BODY == fetch(client, url)[0]


# --- connections ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", {"w.bin": Seeded(32 * MiB, seed="w")})
    with MockHub(world, cdn=False) as running:
        yield running


def hub_fetch(client: ByteClient, hub: MockHub, start: int, stop: int) -> bytes:
    commit = hub.world.repo("org/model").head()
    file = RemoteFile(
        path=RepoPath("w.bin"),
        size=32 * MiB,
        digest=Digest(algo="sha256", hex=commit.files["w.bin"].etag()),
        blob_id="b" * 40,
    )
    manifest = Manifest(ref=MANIFEST.ref, commit=Commit(commit.id), files=(file,))
    into, done = memoryview(bytearray(stop - start)), 0
    with client.open(manifest, file, None, Block(start, stop)) as body:
        while done < len(into):
            done += body.fill(into[done:])
        body.finish()
    return bytes(into)


def test_ranges_share_one_connection(hub: MockHub) -> None:
    """A prototype silently connected anew for every segment; the ledger counts."""
    content = Seeded(32 * MiB, seed="w")
    with a_client(hub.endpoint) as client:
        for start in range(0, 32 * MiB, MiB):
            assert content.read(start, start + MiB) == hub_fetch(client, hub, start, start + MiB)
    assert 1 == len(hub.ledger.connections("hub"))


def test_threads_use_a_connection_each(hub: MockHub) -> None:
    content = Seeded(32 * MiB, seed="w")
    right: list[bool] = []

    def work(number: int) -> None:
        for start in range(number * MiB, 32 * MiB, 4 * MiB):
            right.append(content.read(start, start + MiB) == hub_fetch(client, hub, start, start + MiB))

    with a_client(hub.endpoint) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [True] * 32 == right
    assert len(hub.ledger.connections("hub")) <= 4


def test_a_body_that_was_not_read_to_its_end_costs_its_connection() -> None:
    """Kept alive, its rest would be taken for the next answer."""
    with scripted(say(GOOD), say(GOOD)) as server, a_client() as client:
        url = f"http://127.0.0.1:{server.port}/w.bin"
        with client.open(MANIFEST, FILE, Source(url=url, from_hub=False), Block(0, len(BODY))) as body:
            body.fill(memoryview(bytearray(1000)))
        assert BODY == fetch(client, url)[0]
        assert 2 == server.connections


@pytest.mark.parametrize("piece", [b"", head(LENGTH), head(LENGTH) + BODY[:1000]], ids=["no head", "head", "body"])
@pytest.mark.parametrize("chunked", [False, True])
def test_abort_wakes_a_reader(piece: bytes, chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 30)
    if chunked:
        piece = piece.replace(LENGTH.encode(), b"Transfer-Encoding: chunked")
    with scripted(silent(piece)) as server, a_client() as client:
        timer = threading.Timer(0.3, client.abort)
        timer.start()
        began = time.monotonic()
        with pytest.raises(TransferError):
            fetch(client, f"http://127.0.0.1:{server.port}/w.bin")
        assert time.monotonic() - began < 2
        timer.join()


# --- TLS and proxies --------------------------------------------------------------------------------------------


class Trust:
    """A certificate authority of this test, and what a server needs of it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.file = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.file)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self.server)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(version: ssl.TLSVersion, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    trust.server.minimum_version = trust.server.maximum_version = version
    with scripted(say(GOOD), say(GOOD), tls=trust.server) as server, a_client() as client:
        url = f"https://127.0.0.1:{server.port}/w.bin"
        assert [(BODY, True), (BODY, True)] == [fetch(client, url), fetch(client, url)]
        assert 1 == server.connections


def test_a_certificate_that_nobody_vouches_for_is_final(trust: Trust) -> None:
    with scripted(say(GOOD), tls=trust.server) as server, a_client() as client:
        assert Reason.TLS is reason_of(client, f"https://127.0.0.1:{server.port}/w.bin")


def test_tls_cut_in_the_body(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a close_notify nobody knows whether the end is the peer's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    with scripted(rst(head(LENGTH), BODY[:50_000]), say(GOOD), tls=trust.server) as server, a_client() as client:
        url = f"https://127.0.0.1:{server.port}/w.bin"
        assert reason_of(client, url) in (Reason.RESET, Reason.SHORT_BODY)
        assert BODY == fetch(client, url)[0]


Proxy = Callable[..., object]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_an_http_proxy_carries_http(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A custom transport must not make the environment's proxies disappear."""
    with scripted(say(GOOD)) as server, http_proxy() as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        with a_client() as client:
            assert (BODY, False) == fetch(client, f"http://127.0.0.1:{server.port}/w.bin")
        assert proxy.heads[0].startswith(b"GET http://127.0.0.1")


@pytest.mark.parametrize("over_tls", [False, True], ids=["http proxy", "https proxy"])
def test_a_proxy_carries_https(over_tls: bool, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over an HTTPS proxy there is TLS in TLS: the socket shows ciphertext, and must not be read."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    with (
        scripted(say(GOOD), tls=trust.server) as server,
        http_proxy(tls=trust.server if over_tls else None) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"{'https' if over_tls else 'http'}://127.0.0.1:{proxy.port}")
        with a_client() as client:
            assert (BODY, False) == fetch(client, f"https://127.0.0.1:{server.port}/w.bin")
        assert proxy.heads[0].startswith(b"CONNECT ")


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_socks_proxy(variable: str, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    with scripted(say(GOOD), tls=trust.server) as server, socks_proxy() as proxy:
        monkeypatch.setenv(variable, f"socks5://127.0.0.1:{proxy.port}")
        with a_client() as client:
            assert (BODY, False) == fetch(client, f"https://127.0.0.1:{server.port}/w.bin")
        assert 1 == proxy.connections


@pytest.mark.parametrize("piece", [head(LENGTH), head(LENGTH) + BODY[:1000]], ids=["head", "body"])
@pytest.mark.parametrize("answer", ["cut", "silence"])
@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
def test_what_breaks_behind_a_proxy(
    kind: str, answer: str, piece: bytes, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    broken = rst(piece) if answer == "cut" else silent(piece)
    with ExitStack() as stack:
        server = stack.enter_context(scripted(broken, say(GOOD), tls=trust.server))
        proxy = stack.enter_context(
            socks_proxy() if kind == "socks5" else http_proxy(tls=trust.server if kind == "https" else None)
        )
        monkeypatch.setenv("HTTPS_PROXY", f"{kind}://127.0.0.1:{proxy.port}")
        client = stack.enter_context(a_client())
        url = f"https://127.0.0.1:{server.port}/w.bin"
        assert reason_of(client, url) in (
            {Reason.RESET, Reason.SHORT_BODY, Reason.PROTOCOL} if answer == "cut" else {Reason.TIMEOUT}
        )
        assert BODY == fetch(client, url)[0]


def test_a_server_that_speaks_http_2_alone(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    """It offers nothing else in the handshake, and keeps the connection open: a typed failure, not a hang."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
    trust.server.set_alpn_protocols(["h2"])
    with scripted(silent(H2_SETTINGS), tls=trust.server) as server, a_client() as client:
        reason = reason_of(client, f"https://127.0.0.1:{server.port}/w.bin")
        assert reason in {Reason.PROTOCOL, Reason.RESET, Reason.TIMEOUT, Reason.CONNECT, Reason.TLS}


def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(say(GOOD)) as server, http_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with a_client() as client:
            assert BODY == fetch(client, f"http://127.0.0.1:{server.port}/w.bin")[0]
        assert 0 == proxy.connections


def test_a_proxy_that_wants_a_password_is_final(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(say(GOOD), tls=trust.server) as server, http_proxy(password=True) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with a_client() as client:
            assert Reason.PROXY_AUTH is reason_of(client, f"https://127.0.0.1:{server.port}/w.bin")


def test_a_dead_proxy_is_a_failure_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with a_client() as client:
        assert reason_of(client, "https://127.0.0.1:9/w.bin") in (Reason.PROXY, Reason.CONNECT)


def test_read_head_is_what_the_servers_stand_on() -> None:
    """A server that mistook a request would make every test above pass for the wrong reason."""
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" == read_head(other)
