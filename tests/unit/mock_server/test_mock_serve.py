"""The wire under load, on closing, and with TLS."""

import hashlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mock_server import FileValue, MiB, MockHub, Seeded, Stall, Trickle, World


def make_world(tmp_path: Path | None = None) -> World:
    world = World()
    files: dict[str, FileValue] = {"w.bin": Seeded(3 * MiB + 7, "w"), "small.txt": b"small"}
    world.add("acme/m", files)
    if tmp_path is not None:
        (tmp_path / "disk.bin").write_bytes(Seeded(3 * MiB + 7, "d").read(0, 3 * MiB + 7))
        world.repo("acme/m").commit({"disk.bin": tmp_path / "disk.bin"})
    return world


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set() == set(threading.enumerate()) - before


def connect(hub: MockHub) -> http.client.HTTPConnection:
    parts = urlsplit(hub.endpoint)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> bytes:
    connection.request("GET", f"/acme/m/resolve/main/{path}", headers=headers)
    return connection.getresponse().read()


def test_one_connection_serves_many_requests() -> None:
    with MockHub(make_world(), cdn=False) as hub:
        connection = connect(hub)
        for _ in range(300):
            assert get(connection, "small.txt") == b"small"
        connection.close()
        assert (len(hub.ledger.connections()), len(hub.ledger)) == (1, 300)


def test_a_thousand_connections_one_after_the_other() -> None:
    with MockHub(make_world(), cdn=False) as hub:
        for _ in range(1000):
            connection = connect(hub)
            assert get(connection, "small.txt") == b"small"
            connection.close()
        assert len(hub.ledger.connections("hub")) == 1000


def test_a_hundred_connections_at_once() -> None:
    expected = hashlib.sha256(Seeded(3 * MiB + 7, "w").read(0, 3 * MiB + 7)).digest()

    def fetch(hub: MockHub) -> bytes:
        connection = connect(hub)
        try:
            barrier.wait(10)
            return hashlib.sha256(get(connection, "w.bin")).digest()
        finally:
            connection.close()

    barrier = threading.Barrier(100)
    with MockHub(make_world(), cdn=False) as hub, ThreadPoolExecutor(100) as pool:
        assert {expected} == set(pool.map(fetch, [hub] * 100))
        assert 100 * (3 * MiB + 7) == hub.ledger.bytes_sent("w.bin")


@pytest.mark.parametrize("span", [(0, 3 * MiB + 7), (5, 17), (MiB - 1, 2 * MiB + 1)])
def test_files_on_disk_are_sent_as_they_are(tmp_path: Path, span: tuple[int, int]) -> None:
    with MockHub(make_world(tmp_path), cdn=False) as hub:
        connection = connect(hub)
        body = get(connection, "disk.bin", Range=f"bytes={span[0]}-{span[1] - 1}")
        assert Seeded(3 * MiB + 7, "d").read(*span) == body
        assert get(connection, "small.txt") == b"small"
        connection.close()
        assert span[1] - span[0] == hub.ledger.bytes_sent("disk.bin")


def test_a_head_leaves_the_connection_in_step() -> None:
    with MockHub(make_world(), cdn=False) as hub:
        connection = connect(hub)
        connection.request("HEAD", "/acme/m/resolve/main/w.bin")
        response = connection.getresponse()
        assert (response.headers["Content-Length"], response.read()) == ("3145735", b"")
        assert get(connection, "small.txt") == b"small"
        connection.close()


def test_tls_on_all_origins(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with MockHub(make_world(tmp_path), ssl_context=server) as hub:
        parts = urlsplit(hub.endpoint)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=client, timeout=10)
        connection.request("GET", "/acme/m/resolve/main/disk.bin")
        response = connection.getresponse()
        response.read()
        connection.close()
        location = urlsplit(response.headers["Location"])
        assert (location.scheme, location.hostname) == ("https", "localhost")
        connection = http.client.HTTPSConnection("localhost", location.port, context=client, timeout=10)
        connection.request("GET", f"{location.path}?{location.query}", headers={"Range": "bytes=10-19"})
        assert Seeded(3 * MiB + 7, "d").read(10, 20) == connection.getresponse().read()
        connection.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_never_speaks_does_not_hold_up_closing(tls: bool) -> None:
    context = None
    if tls:
        trustme = pytest.importorskip("trustme")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    hub = MockHub(make_world(), ssl_context=context).start()
    parts = urlsplit(hub.endpoint)
    with socket.create_connection((parts.hostname or "", parts.port or 0)):
        while not hub.ledger.connections():
            time.sleep(0.001)
        begun = time.monotonic()
        hub.close()
        assert time.monotonic() - begun < 2


def test_closing_is_prompt_while_bodies_stall_and_trickle() -> None:
    hub = MockHub(make_world(), cdn=False).start()
    hub.fault(Stall(after=10, seconds=3600), nth=1)
    hub.fault(Trickle(rate=1), nth="from 2")
    connections = [connect(hub) for _ in range(6)]
    for connection in connections:
        connection.request("GET", "/acme/m/resolve/main/w.bin")
    while len(hub.ledger) < 6:
        time.sleep(0.001)
    begun = time.monotonic()
    hub.close()
    assert time.monotonic() - begun < 2
    for connection in connections:
        connection.close()


def test_closing_is_prompt_while_a_client_does_not_read() -> None:
    world = World()
    world.add("acme/m", {"w.bin": Seeded(200 * MiB, "w", declared=True)})
    hub = MockHub(world, cdn=False).start()
    connection = connect(hub)
    connection.request("GET", "/acme/m/resolve/main/w.bin")
    time.sleep(0.05)
    begun = time.monotonic()
    hub.close()
    assert time.monotonic() - begun < 2
    connection.close()


def test_a_client_that_leaves_or_babbles_does_not_matter() -> None:
    with MockHub(make_world(), cdn=False) as hub:
        parts = urlsplit(hub.endpoint)
        for said in (
            b"",
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\n",
            b"GET /acme/m/resolve/main/w.bin HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            with socket.create_connection((parts.hostname or "", parts.port or 0)) as sock:
                sock.sendall(said)
        connection = connect(hub)
        assert get(connection, "small.txt") == b"small"
        connection.close()


def test_several_hubs_live_side_by_side() -> None:
    with MockHub(make_world(), cdn=False) as first, MockHub(make_world(), cdn=False) as second:
        assert first.endpoint != second.endpoint
        connection = connect(second)
        get(connection, "small.txt")
        connection.close()
        assert (len(first.ledger), len(second.ledger)) == (0, 1)


def test_starting_is_quick_and_starting_twice_an_error() -> None:
    spent = []
    for _ in range(3):
        begun = time.monotonic()
        with MockHub(make_world()) as hub:
            spent.append(time.monotonic() - begun)
            with pytest.raises(RuntimeError):
                hub.start()
    assert min(spent) < 0.1


def test_old_clients_see_the_end_of_the_body() -> None:
    with MockHub(make_world(), cdn=False) as hub:
        parts = urlsplit(hub.endpoint)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5) as sock:
            sock.sendall(b"GET /acme/m/resolve/main/small.txt HTTP/1.0\r\n\r\n")
            with sock.makefile("rb") as file:
                assert file.read().endswith(b"\r\n\r\nsmall")


def test_the_ledger_goes_to_a_file(tmp_path: Path) -> None:
    with MockHub(make_world(), cdn=False, ledger=tmp_path / "ledger.jsonl") as hub:
        connection = connect(hub)
        get(connection, "w.bin", Range="bytes=0-9", Authorization="Bearer hf_demo")
        get(connection, "small.txt")
        connection.close()
        hub.ledger.dump(tmp_path / "dump.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [(row["file"], row["range"], row["status"], row["bytes_sent"], row["authorization"]) for row in rows] == [
        ("w.bin", [0, 10], 206, 10, True),
        ("small.txt", None, 200, 5, False),
    ]
    assert "hf_demo" not in (tmp_path / "ledger.jsonl").read_text()
    assert len((tmp_path / "dump.jsonl").read_text().splitlines()) == 2
