"""What strangers send to `fetchverify mirror serve`, and what they must never get."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mock_server import MiB, MockHub, Seeded, World
from mock_server.world import FileValue
from tests.mirrors import (
    NEEDS_SERVER,
    Served,
    clean,
    copy_cache,
    drain,
    eventually,
    fetch,
    free_port,
    repo_folder,
    serving,
    wait_until_ready,
)
from tests.tally import Chance

pytestmark = NEEDS_SERVER

BIG = Seeded(48 * MiB, seed="big")
SMALL = b"small\n" * 100
URL = "/org/m/resolve/main"
SECRET = b"the secret of the machine\n"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one repo, and a secret beside it."""
    place = tmp_path_factory.mktemp("mirror")
    files: dict[str, FileValue] = {"big.bin": BIG, "small.txt": SMALL}
    world = World()
    world.add("org/m", files)
    with MockHub(world) as hub:
        fetch(hub, place / "home", "model", "org/m")
    (place / "home" / "secret").write_bytes(SECRET)
    return place / "home" / "hub"


@pytest.fixture(scope="module")
def served(filled: Path) -> Iterator[Served]:
    with serving(filled, filled.parent / "log", "--stall-timeout", "1") as running:
        yield running


@pytest.fixture
def mine(filled: Path, tmp_path: Path) -> Path:
    """A copy of the cache, for a test that changes it."""
    return copy_cache(filled, tmp_path / "hub")


def well(served: Served) -> None:
    """Expect that the server still does its work, for others."""
    assert SMALL == served.ask(f"{URL}/small.txt")[2]


def blob(cache: Path, content: bytes) -> Path:
    return repo_folder(cache, "org/m") / "blobs" / sha256(content).hexdigest()


TRAVERSALS = [
    "/../../secret",
    "/..%2f..%2fsecret",
    "/%2e%2e/%2e%2e/secret",
    "/org/m/resolve/main/../../../../../secret",
    "/org/m/resolve/main/..%2f..%2f..%2f..%2fsecret",
    "/org/m/resolve/main/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret",
    "/org/m/resolve/..%2f..%2f..%2fsecret/x",
    "/org/m/resolve/main/%00",
    "/org/m/resolve/main//etc/passwd",
    "/org/m/resolve/main/.fetchverify/proofs",
    "/org/m/.fetchverify/proofs",
    "/models--org--m/.fetchverify/proofs",
    "/models--org--m/blobs",
    "/api/models/..%2f..%2fsecret",
    "/api/models/org/m/tree/..%2f..%2f..",
    "/api/models/org/m/revision/..%2f..%2fblobs",
    "/api/models/org/m/tree/main/..%2f..",
    "/datasets/../../secret",
    "/org/m/resolve/main/" + "a" * 20_000,
    "/org/m/resolve/" + "a" * 300 + "/small.txt",
    "/org/m/resolve/%ff%fe/small.txt",
    "/org/m/resolve/main/%ED%A0%80",
]


@pytest.mark.parametrize("path", TRAVERSALS, ids=range(len(TRAVERSALS)))
def test_no_path_leads_out_of_what_the_repos_promise(path: str, served: Served) -> None:
    for method in ("GET", "HEAD"):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        reply = served.raw(head.encode())
        assert reply[9:12] in (b"404", b"400", b"414", b"431"), reply[:200]
        assert SECRET not in reply
        assert b"root:" not in reply
    well(served)


def test_no_link_leads_out_of_the_mirror(mine: Path, tmp_path: Path) -> None:
    """A mirror is filled from strangers' repos, and others may write to its disk."""
    secret = tmp_path / "secret"
    secret.write_bytes(SMALL)  # of the promised size and digest, even
    repo = repo_folder(mine, "org/m")
    name = next(path for path in (repo / "blobs").iterdir() if path.stat().st_size == len(SMALL))
    name.unlink()
    name.symlink_to(secret)
    (mine / "models--org--linked").symlink_to(repo)
    (repo / "refs" / "linked").symlink_to(repo / "refs" / "main")
    os.mkfifo(repo / "refs" / "fifo")
    with serving(mine, tmp_path / "log") as served:
        assert 404 == served.ask(f"{URL}/small.txt")[0]
        assert 404 == served.ask("/org/linked/resolve/main/big.bin")[0]
        assert 404 == served.ask("/org/m/resolve/linked/big.bin")[0]
        assert 404 == served.ask("/org/m/resolve/fifo/big.bin")[0]
        assert ["org/m"] == [row["id"] for row in json.loads(served.ask("/api/models")[2])]
        assert 200 == served.ask(f"{URL}/big.bin", method="HEAD")[0]


@pytest.mark.leaves_damage
@pytest.mark.parametrize("pinned", [False, True])
def test_what_our_records_speak_against_is_not_served(pinned: bool, mine: Path, tmp_path: Path) -> None:
    """A client of the hub checks sizes alone: a byte that flipped on the mirror's disk would reach everybody.

    Nor for the moment for which a file of a pinned commit is kept open.
    """
    commit = (repo_folder(mine, "org/m") / "refs" / "main").read_text()
    url = f"/org/m/resolve/{commit if pinned else 'main'}/big.bin"
    command = [sys.executable, "-m", "fetchverify", "verify", "org/m", "--offline", "--cache-dir", str(mine), "-q"]
    subprocess.run(command, env=clean(), check=True, timeout=60)  # this copy has records of its own now
    big = blob(mine, BIG.read(0, BIG.size))
    with serving(mine, tmp_path / "log") as served:
        assert 200 == served.ask(url, method="HEAD")[0]
        with big.open("r+b") as out:
            out.write(b"\0\0\0\0")
        assert 404 == served.ask(url, method="HEAD")[0]
        assert 1 == served.metric('withheld_total{why="changed"}')
        os.truncate(big, BIG.size - 1)
        assert 404 == served.ask(url, method="HEAD")[0]
        assert 1 == served.metric('withheld_total{why="size"}')
        well(served)


def test_where_only_proved_files_are_asked_for_silence_is_no_proof(mine: Path, tmp_path: Path) -> None:
    """A copied mirror has other inodes, of which no record speaks until `verify` has read them."""
    with serving(mine, tmp_path / "log", "--only-proved") as served:
        assert 404 == served.ask(f"{URL}/small.txt")[0]
        command = [sys.executable, "-m", "fetchverify", "verify", "org/m", "--offline", "--cache-dir", str(mine), "-q"]
        subprocess.run(command, env=clean(), check=True, timeout=60)
        eventually(lambda: served.ask(f"{URL}/small.txt")[0] == 200)


def test_tokens_let_in_their_bearers_alone(filled: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# team\nhf_one\n\nhf_two\n")
    with serving(filled, tmp_path / "log", "--token-file", str(tokens)) as served:
        for wrong in (None, "Bearer hf_on", "Bearer hf_one2", "Bearer", "Basic hf_one", "hf_one", "Bearer # team"):
            headers: dict[str, Any] = {} if wrong is None else {"Authorization": wrong}
            for path in (f"{URL}/small.txt", "/api/models", "/api/models/org/m", "/org/nowhere/resolve/main/x"):
                assert 401 == served.ask(path, **headers)[0], (wrong, path)
        for right in ("hf_one", "hf_two"):
            assert SMALL == served.ask(f"{URL}/small.txt", Authorization=f"Bearer {right}")[2]
        assert (200, 200) == (served.ask("/healthz")[0], served.ask("/metrics")[0])
        code = 'import huggingface_hub as h; print(h.hf_hub_download("org/m", "small.txt"))'
        env = clean(HF_ENDPOINT=served.endpoint, HF_HOME=str(tmp_path / "home"))
        assert 0 != subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False).returncode
        subprocess.run([sys.executable, "-c", code], env=env | {"HF_TOKEN": "hf_two"}, check=True, timeout=60)
    assert "hf_" not in (tmp_path / "log").read_text()


def noise(rng: random.Random) -> bytes:
    """Return a request of which some part is made up."""
    methods = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"\x00", b"get"]
    paths = [f"{URL}/small.txt".encode(), b"/api/models/org/m/paths-info/main", b"*", b"//", b"/\xff", b""]
    versions = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b""]
    method, path, version = rng.choice(methods), rng.choice(paths), rng.choice(versions)
    names = [
        b"Range",
        b"If-Range",
        b"If-None-Match",
        b"Host",
        b"Authorization",
        b"Content-Length",
        b"Transfer-Encoding",
    ]
    names += [b"Expect", b"Upgrade", b"Connection", b"Cookie", b"X" * 300, b"a b", b""]
    values = [b"bytes=0-", b"bytes=-1", b"bytes=9-1", b"bytes=" + b"9" * 400, b"chunked", b"-1", b"5", b"100-continue"]
    values += [b"websocket", b"close", b"\x00", b"\xff" * 20, b"a" * 5000, b'"', b'W/"', b"h2c", b"", b"x\r\n y"]
    fields = b"".join(
        rng.choice(names) + b": " + rng.choice(values) + rng.choice([b"\r\n", b"\r\n", b"\n"])
        for _ in range(rng.randrange(8))
    )
    return method + b" " + path + b" " + version + b"\r\n" + fields + b"\r\n" + rng.randbytes(rng.randrange(20))


def test_no_request_takes_the_server_down(served: Served, chance: Chance) -> None:
    workers = served.workers()
    sound = f"GET {URL}/small.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    sent = [noise(chance.rng) if number % 10 else sound for number in range(300)]
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda data: served.raw(data, patience_s=20.0 if data is sound else 0.5), sent))
    for data, reply in zip(sent, replies, strict=True):
        assert not reply or reply.startswith(b"HTTP/1."), (data, reply[:100])
        assert b" 500 " not in reply[:20], (data, reply[:100])
        assert data is not sound or reply.startswith(b"HTTP/1.1 200"), reply[:100]
    for size in (100_000, 5_000_000):
        assert served.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * size)[9:10] in (b"4", b"")
    body = b"POST /api/models/org/m/paths-info/main HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert served.raw(body + b"Content-Length: 6000000\r\n\r\n" + b"a" * 6_000_000)[9:12] in (b"413", b"")
    form = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for text in (b"[" * 100_000, b'{"paths": [1]}', b"{}", b"\xff"):
        assert b"400" == served.raw(body + form % len(text) + text)[9:12]
    assert workers == served.workers()
    well(served)


def test_a_strangers_host_is_not_repeated(served: Served) -> None:
    """A cache between us would hand the address to everybody."""
    head = b"GET /api/models/org/m/tree/main?limit=1 HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
    for host in (b"evil/?x=", b'">', b"a@evil", b"a b"):
        reply = served.raw(head % host)
        assert host not in reply
    assert b"<http://mirror.lan:8080/api/models/" in served.raw(head % b"mirror.lan:8080")


def start(served: Served) -> socket.socket:
    """Return a connection that asked for the big file and has got its beginning."""
    sock = served.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    sock.sendall(f"GET {URL}/big.bin HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    return sock


def test_clients_that_go_away_leave_nothing_behind(served: Served) -> None:
    """Nor is the rest of 40 GB read for nobody."""
    before = served.metric('broken_total{by="client"}')
    for _ in range(10):
        start(served).close()
    eventually(lambda: served.open_files() == 0)
    eventually(lambda: served.metric("answers_under_way") == 1)  # the one that asks
    assert before < served.metric('broken_total{by="client"}')
    well(served)


def test_clients_that_stand_still_are_cut_off_and_hold_up_nobody(served: Served) -> None:
    """Not only our part ends: what the server has in its own buffers for them goes, too."""
    well(served)
    eventually(lambda: served.metric("answers_under_way") == 1)
    before, connections = served.metric('broken_total{by="stalled"}'), served.connections()
    standing = [start(served) for _ in range(20)]
    well(served)
    eventually(lambda: served.open_files() == 0)
    eventually(lambda: served.connections() <= connections)
    assert before < served.metric('broken_total{by="stalled"}')
    for sock in standing:
        assert len(drain(sock)) < BIG.size
        sock.close()


def test_a_client_that_dawdles_over_its_request_holds_up_nobody(served: Served) -> None:
    dawdling = [served.connect() for _ in range(50)]
    for sock in dawdling:
        sock.sendall(b"GET / HTTP/1.1\r\nX-")
    well(served)
    for sock in dawdling:
        sock.close()


def test_two_hundred_clients_get_what_they_ask_for(served: Served) -> None:
    def one(number: int) -> bool:
        start = number * 1000
        status, _, body = served.ask(f"{URL}/big.bin", Range=f"bytes={start}-{start + 99_999}")
        return status == 206 and body == BIG.read(start, start + 100_000)

    with ThreadPoolExecutor(200) as pool:
        assert [True] * 400 == list(pool.map(one, range(400)))


@pytest.mark.leaves_damage
def test_a_file_that_is_cut_under_a_download_ends_it(mine: Path, tmp_path: Path) -> None:
    """Anything else than a closed connection would look like the whole file, or like a server that hangs."""
    with serving(mine, tmp_path / "log") as served:
        with start(served) as sock:
            os.truncate(blob(mine, BIG.read(0, BIG.size)), 1000)
            assert len(drain(sock)) < BIG.size
        assert 1 == served.metric('broken_total{by="disk"}')
        well(served)


def test_a_stop_finishes_what_is_under_way(filled: Path, tmp_path: Path) -> None:
    with serving(filled, tmp_path / "log") as served:
        with start(served) as sock:
            served.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert len(drain(sock)) > BIG.size - 1000
        assert 0 == served.process.wait(20)


def test_nothing_serves_on_when_the_server_was_killed(filled: Path, tmp_path: Path) -> None:
    with serving(filled, tmp_path / "log") as served:
        served.process.kill()
        served.process.wait()
        eventually(lambda: refused(served))


def refused(served: Served) -> bool:
    try:
        served.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_worker_that_dies_is_replaced(filled: Path, tmp_path: Path) -> None:
    with serving(filled, tmp_path / "log") as served:
        os.kill(served.workers()[0], signal.SIGKILL)
        time.sleep(0.2)
        wait_until_ready(served)
        well(served)


def test_a_port_that_is_taken_is_said_to_be(filled: Path, served: Served) -> None:
    """The server beneath would share the port: half of the clients would see the other mirror."""
    command = [sys.executable, "-m", "fetchverify", "mirror", "serve", str(filled), "--port", str(served.port)]
    done = subprocess.run(command, env=clean(), capture_output=True, text=True, timeout=30, check=False)
    assert (6, True) == (done.returncode, "already" in done.stderr)


def test_without_the_server_the_way_to_it_is_shown(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "fetchverify", "mirror", "serve", str(filled), "--port", str(free_port())]
    done = subprocess.run(command, env=clean(PYTHONPATH=path), capture_output=True, text=True, timeout=30, check=False)
    assert (2, True) == (done.returncode, "pip install 'fetchverify[serve]'" in done.stderr)
