"""The server that all peers fetch from: nginx where it is installed, else the mock Hub."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mock_server import Match, MaxConnections, MockHub, Rule
from tests.bench import place
from tests.bench.cases import Case, Shelf
from tests.bench.line import CLEAN, LOSSY, NARROW, SLOW_ONE, Line, compile_line, laid, listener
from tests.bench.nginx import CDN_HOST, HUB_HOST, Face, configuration

BUSY_ABOVE = 4
_START_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the server is reached: over TLS or not, over a line or not."""

    name: str
    about: str
    tls: bool = False
    line: Line | None = None
    most_requests: int | None = None


PLAIN = Way(name="plain", about="plain HTTP")
TLS = Way(name="tls", about="TLS", tls=True)
FAR = Way(name="line", about="50 ms round trip, 200 Mbit/s a connection", line=CLEAN)
WIDE = Way(name="wide", about="the same, 3,200 Mbit/s for all connections together", line=NARROW)
SLOW = Way(name="slow", about="the same, one connection in eight ten times slower", line=SLOW_ONE)
LOST = Way(name="lost", about="the same, a connection lost every 200 MiB", line=LOSSY)
BUSY = Way(
    name="busy",
    about=f"the same, 429 above {BUSY_ABOVE} requests at once",
    line=CLEAN,
    most_requests=BUSY_ABOVE,
)
BAD = (SLOW, LOST, BUSY)


@dataclass(slots=True, kw_only=True)
class Site:
    """A running server; `endpoints` by the name of the way."""

    server: str
    ca: Path
    endpoints: dict[str, str] = field(default_factory=dict)
    ledgers: dict[str, MockHub] = field(default_factory=dict)


@contextlib.contextmanager
def opened(
    work: Path, shelf: Shelf, cases: list[Case], ways: list[Way], *, mock: bool = False, access_log: bool = False
) -> Iterator[Site]:
    """Serve the cases on all ways until the block ends.

    Raises:
        RuntimeError: the server did not start; with what it said.
    """
    ca = make_authority(work) if any(way.tls for way in ways) else work / "ca.pem"
    with contextlib.ExitStack() as stack:
        program = compile_line(work) if any(way.line for way in ways) else work / "line"
        if mock or shutil.which("nginx") is None:
            site = Site(server="the mock Hub (nginx is not installed)" if not mock else "the mock Hub", ca=ca)
            for way in ways:
                _open_mock(stack, site, shelf, way, program, work)
        else:
            site = Site(server=f"nginx {place.version(['nginx', '-v'])}, sendfile, files in memory", ca=ca)
            _open_nginx(stack, site, shelf, cases, ways, program, work, access_log=access_log)
        yield site


def _open_mock(stack: contextlib.ExitStack, site: Site, shelf: Shelf, way: Way, program: Path, work: Path) -> None:
    context = None
    if way.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(work / "leaf.pem", work / "leaf.key")
    rules = []
    if way.most_requests is not None:
        rules.append(Rule(fault=MaxConnections(limit=way.most_requests), match=Match(route="resolve")))
    # Behind a line its redirects would lead around the line.
    hub = stack.enter_context(MockHub(shelf.world, ssl_context=context, cdn=way.line is None, rules=rules))
    site.ledgers[way.name] = hub
    site.endpoints[way.name] = hub.endpoint
    if way.line is not None:
        door = listener(HUB_HOST)
        site.endpoints[way.name] = f"http://{HUB_HOST}:{door.getsockname()[1]}"
        stack.enter_context(laid(program, way.line, [(door, HUB_HOST, int(hub.endpoint.rpartition(":")[2]))]))


def _open_nginx(
    stack: contextlib.ExitStack,
    site: Site,
    shelf: Shelf,
    cases: list[Case],
    ways: list[Way],
    program: Path,
    work: Path,
    *,
    access_log: bool,
) -> None:
    # First the doors, which are held from now on: else one of them may be given a port that was found free for nginx.
    doors = {way.name: (listener(HUB_HOST), listener(CDN_HOST)) for way in ways if way.line is not None}
    ports = iter(place.free_ports(*[HUB_HOST, CDN_HOST] * len(ways)))
    faces = []
    for way in ways:
        hub, cdn = next(ports), next(ports)
        public_hub, public_cdn = hub, cdn
        if way.line is not None:
            to_hub, to_cdn = doors[way.name]
            public_hub, public_cdn = (int(sock.getsockname()[1]) for sock in (to_hub, to_cdn))
            stack.enter_context(laid(program, way.line, [(to_hub, HUB_HOST, hub), (to_cdn, CDN_HOST, cdn)]))
        face = Face(
            name=way.name,
            hub=hub,
            cdn=cdn,
            public_hub=public_hub,
            public_cdn=public_cdn,
            tls=way.tls,
            most_requests=way.most_requests,
            access_log=access_log,
        )
        site.endpoints[way.name] = face.endpoint
        faces.append(face)
    text = work / "nginx.conf"
    text.write_text(configuration(work=work, shelf=shelf, cases=cases, faces=faces))
    said = stack.enter_context((work / "nginx-said").open("w+"))
    process = subprocess.Popen(
        ["nginx", "-c", str(text), "-p", str(work)],
        stdout=said,
        stderr=said,
        preexec_fn=place.end_with_parent,
    )
    stack.callback(_stop, process)
    deadline = time.monotonic() + _START_S
    for host, port in [(HUB_HOST, face.hub) for face in faces] + [(CDN_HOST, face.cdn) for face in faces]:
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                said.seek(0)
                raise RuntimeError(f"nginx did not start: {said.read().strip()}")
            time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_authority(work: Path) -> Path:
    """Write `leaf.pem` and `leaf.key` for the server's hosts, and return the certificate of their authority."""
    (work / "san").write_text(f"subjectAltName=IP:{HUB_HOST},IP:{CDN_HOST},DNS:localhost\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    signed = ["-CAcreateserial", "-days", "2", "-extfile", "san", "-out", "leaf.pem"]
    commands = [
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=bench authority"],
        ["req", "-new", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=bench"],
        ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", *signed],
    ]
    for command in commands:
        done = subprocess.run(["openssl", *command], cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl: {done.stderr}")
    return work / "ca.pem"
