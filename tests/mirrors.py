"""Mirrors for tests: filled by `get`, served by `fetchverify mirror serve` in a process of its own."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from fetchverify.core.manifest import Commit
from fetchverify.store.hubcache import repo_folder_name
from mock_server import MockHub

NEEDS_SERVER = pytest.mark.skipif(find_spec("uvicorn") is None, reason="needs `pip install 'fetchverify[serve]'`")
READY_S = 30.0
Reply = tuple[int, dict[str, str], bytes]


def clean(**more: str) -> dict[str, str]:
    """Return an environment without what speaks of a Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return kept | quiet | more


def fetch(hub: MockHub, home: Path, kind: str, repo_id: str, *more: str) -> None:
    """Have `get` fill a cache below `home`."""
    command = [sys.executable, "-m", "fetchverify", "get", repo_id, "-t", kind, "-q", *more]
    subprocess.run(command, env=clean(HF_ENDPOINT=hub.endpoint, HF_HOME=str(home)), check=True, timeout=60)


def fetch_folder(hub: MockHub, root: Path, kind: str, repo_id: str, commit: Commit) -> Path:
    """Have `get` fill `<org>/<name>/<commit>/`, with a `main` link; returns the commit's folder."""
    top = root if kind == "model" else root / f"{kind}s"
    place = top / repo_id / commit
    fetch(hub, root.with_name("home"), kind, repo_id, "--to", str(place))
    (place.parent / "main").symlink_to(commit)
    return place


@dataclass(slots=True)
class Served:
    """A mirror's server that runs."""

    process: subprocess.Popen[str]
    port: int
    log: Path
    tls: ssl.SSLContext | None = None

    @property
    def endpoint(self) -> str:
        """What clients take for the Hub."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
        """Send one request, with `_` for `-` in names of headers; names come back in lower case."""
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.tls)
            if self.tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        )
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes, *, patience_s: float = 20.0) -> bytes:
        """Return all that comes after `data` was sent, until the server closes or is silent for so long.

        The sending side stays open: a server may take its end for the client's.
        """
        with self.connect() as sock:
            try:
                sock.sendall(data)
            except OSError:
                pass  # closed by now; what was said before may still be there
            sock.settimeout(patience_s)
            return drain(sock)

    def metric(self, name: str) -> int:
        """Return a counter, its labels as in the text."""
        text = self.ask("/metrics")[2].decode()
        found = re.search(rf"^fetchverify_serve_{re.escape(name)} ([0-9.]+)$", text, re.MULTILINE)
        assert found is not None, text
        return int(float(found[1]))

    def workers(self) -> list[int]:
        """Return the ids of the processes that serve."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in text.split()]

    def open_files(self) -> int:
        """Return how many files of the mirror are open."""
        return sum("/blobs/" in target for target in self._descriptors())

    def connections(self) -> int:
        """Return how many sockets are open, among them some of the server's own."""
        return sum(target.startswith("socket:") for target in self._descriptors())

    def _descriptors(self) -> Iterator[str]:
        for pid in self.workers():
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    yield str(entry.readlink())
                except FileNotFoundError:  # closed since
                    continue


def drain(sock: socket.socket) -> bytes:
    """Return what comes until the other side ends, in whatever way, or falls silent."""
    got = bytearray()
    try:
        while data := sock.recv(1 << 20):
            got += data
    except (ConnectionError, TimeoutError):
        pass
    return bytes(got)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    root: Path | None, log: Path, *options: str, tls: ssl.SSLContext | None = None, cwd: Path | None = None
) -> Iterator[Served]:
    """Serve a mirror as long as the block runs; its stdout and stderr go to `log`.

    Args:
        root: the mirror; None where the options, or a config in `cwd`, tell.
        log: a file.
        options: of the command.
        tls: trusts the certificate that the options name.
        cwd: where it runs.
    """
    port = free_port()
    command = [sys.executable, "-m", "fetchverify", "mirror", "serve", *([str(root)] if root else [])]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *options], stdout=out, stderr=out, env=clean(), text=True, cwd=cwd
        )
    served = Served(process, port, log, tls)
    try:
        wait_until_ready(served)
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_until_ready(served: Served) -> None:
    """Return once the server answers."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if served.ask("/healthz")[0] == 200:
                return
        except OSError:
            pass
        assert served.process.poll() is None, served.log.read_text()
        time.sleep(0.05)
    raise AssertionError(served.log.read_text())


def eventually(law: object, *, within_s: float = 15.0) -> None:
    """Wait until `law()` is true."""
    assert callable(law)
    deadline = time.monotonic() + within_s
    while not law():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def repo_folder(cache: Path, repo_id: str) -> Path:
    """Return a model's folder in a cache."""
    return cache / repo_folder_name("model", repo_id)


def copy_cache(source: Path, target: Path) -> Path:
    """Copy a cache as rsync would: other inodes, the same links."""
    shutil.copytree(source, target, symlinks=True)
    return target
