"""`fetchverify mirror serve` over TLS, behind a proxy that speaks it, and as a config sets it up."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from fetchverify.core.manifest import Commit
from mock_server import MiB, MockHub, Seeded, World
from mock_server.world import FileValue
from tests.mirrors import NEEDS_SERVER, Served, clean, drain, eventually, fetch, fetch_folder, free_port, serving

pytestmark = NEEDS_SERVER

BIG = Seeded(24 * MiB, seed="big")
SMALL = b"small\n" * 100
MANY = 120  # more than a page has


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a mirror in each layout, an authority's certificate and a server's."""
    place = tmp_path_factory.mktemp("mirror")
    world = World()
    files: dict[str, FileValue] = {"big.bin": BIG, "small.txt": SMALL}
    world.add("org/m", files)
    with MockHub(world) as hub:
        fetch(hub, place / "home", "model", "org/m")
        fetch_folder(hub, place / "folders", "model", "org/m", Commit(world.repo("org/m").head().id))
    for number in range(MANY - 1):
        (place / "home" / "hub" / f"models--org--empty{number}" / "snapshots").mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.cert_chain_pems[0].write_to_path(str(place / "cert.pem"))
    issued.private_key_pem.write_to_path(str(place / "key.pem"))
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(place / "other.pem"))
    return place


def tls_options(place: Path, key: str = "key.pem") -> list[str]:
    return ["--tls-cert", str(place / "cert.pem"), "--tls-key", str(place / key)]


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Served]:
    trusts = ssl.create_default_context(cafile=str(place / "ca.pem"))
    options = ["--stall-timeout", "1", *tls_options(place)]
    with serving(place / "home" / "hub", place / "log", *options, tls=trusts) as running:
        yield running


def run(argv: list[str], endpoint: str, place: Path, home: Path) -> str:
    env = clean(HF_ENDPOINT=endpoint, HF_HOME=str(home), SSL_CERT_FILE=str(place / "ca.pem"))
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


SNAPSHOT = 'import huggingface_hub as h; print(h.snapshot_download("org/m"))'


def test_the_hubs_client_and_ours_download_over_tls(served: Served, place: Path, tmp_path: Path) -> None:
    folder = Path(run([sys.executable, "-c", SNAPSHOT], served.endpoint, place, tmp_path / "theirs").strip())
    assert (BIG.read(0, BIG.size), SMALL) == ((folder / "big.bin").read_bytes(), (folder / "small.txt").read_bytes())
    command = [sys.executable, "-m", "fetchverify", "get", "org/m", "--json"]
    said = run(command, served.endpoint, place, tmp_path / "ours").splitlines()[-1]
    assert BIG.read(0, BIG.size) == (Path(json.loads(said)["target"]) / "big.bin").read_bytes()
    assert 2 * BIG.size < served.metric("sent_bytes_total")


def test_a_certificate_that_nobody_vouches_for_is_refused_by_clients(served: Served) -> None:
    """That is: it is TLS indeed that is spoken here."""
    stranger = Served(served.process, served.port, served.log, ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.ask("/healthz")


def test_who_speaks_no_tls_holds_up_nobody(served: Served) -> None:
    silent = [served.connect() for _ in range(20)]
    with served.connect() as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"ok" not in drain(plain)
    assert 200 == served.ask("/healthz")[0]
    for sock in silent:
        sock.close()


def test_clients_that_stand_still_are_cut_off_over_tls_too(served: Served) -> None:
    before = served.metric('broken_total{by="stalled"}')
    assert served.tls is not None
    standing = []
    for _ in range(5):
        sock = served.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        standing.append(served.tls.wrap_socket(sock, server_hostname="127.0.0.1"))
        standing[-1].sendall(b"GET /org/m/resolve/main/big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: served.metric('broken_total{by="stalled"}') == before + 5)
    eventually(lambda: served.open_files() == 0)
    for one in standing:
        one.close()


def refused(place: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "fetchverify", "mirror", "serve", "--port", str(free_port()), *options]
    done = subprocess.run(
        command, env=clean(HF_HOME=str(place / "home")), capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr


def test_a_certificate_without_its_key_is_refused_at_the_start(place: Path) -> None:
    """Else every client would find out."""
    code, said = refused(place, *tls_options(place, "other.pem"))
    assert (2, True) == (code, "certificate" in said)
    code, said = refused(place, *tls_options(place)[:2])
    assert (2, True) == (code, "--tls-key" in said)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(place: Path, door: socket.socket, port: int) -> Iterator[None]:
    """Speak TLS to clients and plain HTTP to the mirror, as nginx or a load balancer would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "cert.pem", place / "key.pem")

    def carry(client: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(client, server_side=True) as near,
            socket.create_connection(("127.0.0.1", port)) as far,
        ):
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(door.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        door.shutdown(socket.SHUT_RDWR)


LIST = 'import huggingface_hub as h; print(len(list(h.HfApi().list_models(author="org"))))'


def test_behind_a_proxy_the_next_page_is_where_clients_can_reach_it(place: Path, tmp_path: Path) -> None:
    """The server sees plain HTTP; the pages that it names must be the proxy's."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        public = f"https://127.0.0.1:{door.getsockname()[1]}"
        with (
            serving(place / "home" / "hub", tmp_path / "log", "--public-url", public + "/") as served,
            proxy(place, door, served.port),
        ):
            reply = served.ask("/api/models?limit=1", Host="elsewhere.example:1")
            assert reply[1]["link"].startswith(f"<{public}/api/models?")
            assert MANY == int(run([sys.executable, "-c", LIST], public, place, tmp_path / "home"))
            folder = Path(run([sys.executable, "-c", SNAPSHOT], public, place, tmp_path / "home").strip())
            assert BIG.read(0, BIG.size) == (folder / "big.bin").read_bytes()


@pytest.mark.parametrize("given", [True, False])
def test_what_a_config_keeps_is_served(given: bool, place: Path, tmp_path: Path) -> None:
    """Where and how the mirror lies is said once; the token that fills it is not needed here."""
    text = f'folder = "{place / "folders"}"\nlayout = "folders"\ntoken_env = "NOWHERE"\n[[repo]]\nid = "org/m"\n'
    (tmp_path / "mirror.toml").write_text(text)
    options = ["--config", str(tmp_path / "mirror.toml")] if given else []
    with serving(None, tmp_path / "log", *options, cwd=None if given else tmp_path) as served:
        assert SMALL == served.ask("/org/m/resolve/main/small.txt")[2]


def test_a_config_that_says_otherwise_than_the_command_is_refused(place: Path, tmp_path: Path) -> None:
    config = tmp_path / "mirror.toml"
    config.write_text(f'folder = "{place / "folders"}"\nlayout = "folders"\n[[repo]]\nid = "org/m"\n')
    assert 2 == refused(place, "--config", str(config), "--layout", "cache")[0]
    assert 2 == refused(place, "--config", str(config), str(place / "folders"))[0]
    assert 2 == refused(place, "--config", str(tmp_path / "nowhere.toml"))[0]
