"""What HTTP clients may do on one connection of `fetchverify mirror serve`, and what they may not."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MiB, MockHub, Seeded, World
from mock_server.world import FileValue
from tests.mirrors import NEEDS_SERVER, Served, drain, eventually, fetch, repo_folder, serving

pytestmark = NEEDS_SERVER

BIG = Seeded(24 * MiB, seed="big")
SMALL = b"small\n" * 100


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mirror")
    world = World()
    files: dict[str, FileValue] = {"big.bin": BIG, "small.txt": SMALL}
    world.add("org/m", files)
    with MockHub(world) as hub:
        fetch(hub, place / "home", "model", "org/m")
    return place / "home" / "hub"


@pytest.fixture(scope="module")
def served(filled: Path) -> Iterator[Served]:
    with serving(filled, filled.parent / "log", "--stall-timeout", "5") as running:
        yield running


@pytest.fixture(scope="module")
def commit(filled: Path) -> str:
    return (repo_folder(filled, "org/m") / "refs" / "main").read_text()


def request(name: str, *headers: str, revision: str = "main") -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"GET /org/m/resolve/{revision}/{name} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


def test_a_connection_lives_on_after_a_file_that_the_kernel_sent(served: Served) -> None:
    before = served.metric("sent_by_kernel_bytes_total")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    sockets = set()
    for start, stop in ((0, BIG.size), (5, 5 * MiB + 7), (BIG.size - MiB, BIG.size)):
        connection.request("GET", "/org/m/resolve/main/big.bin", headers={"Range": f"bytes={start}-{stop - 1}"})
        reply = connection.getresponse()
        assert (206, BIG.read(start, stop)) == (reply.status, reply.read())
        sockets.add(connection.sock.getsockname())
    connection.request("GET", "/org/m/resolve/main/small.txt")
    assert SMALL == connection.getresponse().read()
    connection.close()
    assert 1 == len(sockets)
    assert before + BIG.size + 5 * MiB + 2 + MiB == served.metric("sent_by_kernel_bytes_total")


def test_requests_that_come_at_once_are_answered_in_their_order(served: Served) -> None:
    head, tail = request("big.bin", "Range: bytes=0-2097151"), request("small.txt", "Connection: close")
    got = served.raw(head + request("small.txt") + head + tail)
    bodies = [BIG.read(0, 2 * MiB), SMALL, BIG.read(0, 2 * MiB), SMALL]
    for body in bodies:
        _, _, got = got.partition(b"\r\n\r\n")
        assert got.startswith(body)
        got = got[len(body) :]
    assert b"" == got


def test_a_flood_of_requests_ends_the_connection(served: Served) -> None:
    """Each that waits takes memory; nobody who downloads models sends hundreds ahead."""
    got = served.raw(request("small.txt") * 2000, patience_s=2)
    assert got.count(b"HTTP/1.1 200") < 2000
    assert SMALL == served.ask("/org/m/resolve/main/small.txt")[2]


def test_nonsense_behind_a_request_is_not_mixed_into_its_answer(served: Served) -> None:
    """A refusal in the middle of a body would be taken for a part of the file."""
    with served.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        sock.sendall(request("big.bin"))
        time.sleep(0.2)
        sock.sendall(b"\x00 nonsense\r\n\r\n")
        got = drain(sock)
    body = got.partition(b"\r\n\r\n")[2]
    assert BIG.read(0, BIG.size).startswith(body)


def test_a_head_that_does_not_end_is_not_kept(served: Served) -> None:
    with served.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(100):
                sock.sendall(b"X-%s: 1\r\n" % (b"a" * 10_000))
                time.sleep(0.002)
        except OSError:
            return  # cut off: that is the law
        assert drain(sock)[9:12] in (b"400", b"431", b"")


def test_more_clients_than_there_is_room_for_wait(filled: Path, tmp_path: Path) -> None:
    with serving(filled, tmp_path / "log", "--most-clients", "2") as served:
        eventually(lambda: served.ask("/healthz")[0] == 200)
        first, second, third = served.connect(), served.connect(), served.connect()
        for sock in (first, second):
            sock.sendall(request("small.txt"))
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        third.sendall(request("small.txt"))
        third.settimeout(0.5)
        with pytest.raises(TimeoutError):
            third.recv(1)
        first.close()
        third.settimeout(20)
        assert third.recv(4096).startswith(b"HTTP/1.1 200")
        for sock in (second, third):
            sock.close()


def test_a_file_that_was_removed_is_not_kept_open(filled: Path, commit: str, tmp_path: Path) -> None:
    """Its place on the disk is wanted back."""
    with serving(filled, tmp_path / "log") as served:
        url = f"/org/m/resolve/{commit}/small.txt"
        assert [SMALL] * 3 == [served.ask(url)[2] for _ in range(3)]
        blobs = repo_folder(filled, "org/m") / "blobs"
        blob = next(path for path in blobs.iterdir() if path.stat().st_size == len(SMALL))
        os.rename(blob, tmp_path / "gone")
        try:
            assert 404 == served.ask(url)[0]
            assert 200 == served.ask(f"/org/m/resolve/{commit}/big.bin", method="HEAD")[0]
            eventually(lambda: served.open_files() == 0)
        finally:
            os.rename(tmp_path / "gone", blob)
