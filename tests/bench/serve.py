"""How close `fetchverify mirror serve` comes to nginx, with the same files on loopback."""

from __future__ import annotations

import random
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from tests.bench.units import GiB, MiB, spread
from tests.mirrors import free_port

_REPO, _COMMIT = "org/m", Commit("5" * 40)
_SMALL, _SMALLS = 10_000, 200
_CLIENTS, _REQUESTS = 200, 8_000
_SEGMENT, _CONNECTIONS = 8 * MiB, 16
_PATH = f"/{_REPO}/resolve/{_COMMIT}"
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Way:
    """What clients do: `run` takes a port and returns bytes (or files) a second."""

    name: str
    unit: str
    run: Callable[[int], float]


def measure(folder: Path, size: int, rounds: int, results: Path, tell: Callable[[str], None]) -> int:
    """Print the figures and write them to `serve.md`; return the exit code."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        raise RuntimeError("nginx is not here")
    with tempfile.TemporaryDirectory(prefix="fetchverify-bench-", dir=folder) as work:
        place = Path(work)
        place.chmod(0o755)
        _fill(place, size)
        ways = (
            Way("one client, the whole file", "GB/s", lambda port: _whole(port, size)),
            Way(f"{_CONNECTIONS} connections, ranges of 8 MiB", "GB/s", lambda port: _ranges(port, size)),
            Way(f"{_CLIENTS} clients, files of 10 kB", "files/s", _smalls),
        )
        found: dict[tuple[str, str], list[float]] = {}
        with _nginx(nginx, place) as theirs, _ours(place) as ours:
            ports = {"nginx": theirs, "ours": ours}
            for number in range(rounds + 1):  # the first only warms
                for way in ways:
                    for name in random.sample(list(ports), len(ports)):
                        speed = way.run(ports[name])
                        if number:
                            found.setdefault((way.name, name), []).append(speed)
                            tell(f"round {number}: {way.name}: {name}: {speed:,.2f} {way.unit}")
    lines = [
        f"One file of {size / GiB:.2f} GiB and {_SMALLS} of 10 kB, from the page cache, over loopback; clients and"
        f" servers on the same cores. Medians of {rounds} rounds, with minimum and maximum.",
        "",
        "| clients | mirror serve | nginx (sendfile) | ratio |",
        "|---|---:|---:|---:|",
    ]
    for way in ways:
        mine, other = found[way.name, "ours"], found[way.name, "nginx"]
        ratio = sorted(mine)[len(mine) // 2] / sorted(other)[len(other) // 2]
        lines.append(f"| {way.name} | {spread(mine)} {way.unit} | {spread(other)} {way.unit} | {ratio:.2f} |")
    text = "\n".join([*lines, ""])
    (results / "serve.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


# --- servers


def _fill(place: Path, size: int) -> None:
    """Lay a repo out twice: as the hub's cache, and as a folder of the same files for nginx."""
    files: list[RemoteFile] = []
    blobs = place / "hub" / "models--org--m" / "blobs"
    blobs.mkdir(parents=True)
    (blobs.parent / "snapshots").mkdir()
    www = place / "www" / _PATH.lstrip("/")
    www.mkdir(parents=True)
    for name, length in [("big.bin", size), *((f"{number}.bin", _SMALL) for number in range(_SMALLS))]:
        made = blobs / "made"
        digest = sha256()
        with made.open("wb") as out:
            for start in range(0, length, MiB):
                data = random.randbytes(min(MiB, length - start))
                digest.update(data)
                out.write(data)
        made.rename(blobs / digest.hexdigest())
        (www / name).symlink_to(blobs / digest.hexdigest())
        promised = Digest(algo="sha256", hex=digest.hexdigest())
        files.append(RemoteFile(path=RepoPath(name), size=length, digest=promised, blob_id="1" * 40))
    ref = RepoRef(kind="model", repo_id=_REPO, revision="main")
    manifest = Manifest(ref=ref, commit=_COMMIT, files=tuple(files))
    cache = HubCache.for_repo(Disk(), place / "hub", "model", _REPO)
    cache.begin(manifest)
    for file in files:
        cache.proofs.add(file.digest, cache.blob(file.digest))
    cache.proofs.flush()


@contextmanager
def _running(argv: Sequence[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError(f"`{argv[0]}` does not answer")
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _nginx(nginx: str, place: Path) -> Iterator[int]:
    port = free_port()
    (place / "nginx.conf").write_text(
        f"daemon off; worker_processes auto; user root; pid {place}/nginx.pid; error_log {place}/nginx.log;\n"
        "events { worker_connections 2048; }\n"
        "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; root {place}/www; }} }}\n"
    )
    with _running([nginx, "-c", str(place / "nginx.conf")], port):
        yield port


@contextmanager
def _ours(place: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "fetchverify", "mirror", "serve", str(place / "hub"), "--port", str(port)]
    with _running([*command, "--no-access-log", "-q"], port):
        yield port


# --- clients


def _request(path: str, header: str = "") -> bytes:
    return f"GET {_PATH}/{path} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode()


def _take(sock: socket.socket, buffer: bytearray, expected: int) -> None:
    """Read one response whose body has the expected length."""
    view = memoryview(buffer)
    filled = 0
    while (end := buffer.find(_HEAD_END, 0, filled)) < 0:
        got = sock.recv_into(view[filled:])
        if not got:
            raise RuntimeError("the server closed the connection")
        filled += got
    left = expected - (filled - end - len(_HEAD_END))
    while left:
        got = sock.recv_into(view, min(left, len(buffer)))
        if not got:
            raise RuntimeError("the server closed the connection")
        left -= got


def _whole(port: int, size: int) -> float:
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(_request("big.bin"))
        _take(sock, bytearray(MiB), size)
    return size / (time.perf_counter() - started) / 1e9


def _ranges(port: int, size: int) -> float:
    spans = iter([(start, min(start + _SEGMENT, size)) for start in range(0, size, _SEGMENT)])
    lock, troubles = threading.Lock(), []

    def work() -> None:
        try:
            with socket.create_connection(("127.0.0.1", port)) as sock:
                buffer = bytearray(MiB)
                while True:
                    with lock:
                        span = next(spans, None)
                    if span is None:
                        return
                    sock.sendall(_request("big.bin", f"Range: bytes={span[0]}-{span[1] - 1}\r\n"))
                    _take(sock, buffer, span[1] - span[0])
        except (OSError, RuntimeError) as error:
            troubles.append(error)

    started = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if troubles:
        raise RuntimeError(f"a client failed: {troubles[0]}")
    return size / (time.perf_counter() - started) / 1e9


def _smalls(port: int) -> float:
    """Return files a second of many clients on one thread, each asking for the next file when it has one."""
    left, done = _REQUESTS, 0
    with selectors.DefaultSelector() as selector:
        for _ in range(_CLIENTS):
            selector.register(socket.create_connection(("127.0.0.1", port)), selectors.EVENT_READ, bytearray())
        started = time.perf_counter()
        for key in list(selector.get_map().values()):
            key.fileobj.sendall(_request(f"{left % _SMALLS}.bin"))  # type: ignore[union-attr]
            left -= 1
        while done < _REQUESTS:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                sock, got = key.fileobj, key.data
                data = sock.recv(65536)
                if not data:
                    raise RuntimeError("the server closed the connection")
                got += data
                end = got.find(_HEAD_END)
                if end < 0 or len(got) < end + len(_HEAD_END) + _SMALL:
                    continue
                if not got.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("the server refused a file")
                got.clear()
                done += 1
                if left:
                    sock.sendall(_request(f"{left % _SMALLS}.bin"))
                    left -= 1
        seconds = time.perf_counter() - started
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return _REQUESTS / seconds
