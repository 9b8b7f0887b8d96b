"""The server that carries the answers: granian, an extra; its limits, deadlines, signals and graceful stop."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fetchverify.errors import DiskError, LockedError, UsageError
from fetchverify.serve.answers import Access, Answers
from fetchverify.serve.asgi import Application, Served, log_line
from fetchverify.serve.cached import CacheMirror
from fetchverify.serve.foldered import FolderMirror
from fetchverify.serve.mirror import Mirror

_PR_SET_PDEATHSIG = 1
_HEADER_MS = 30_000
# Of a request's head: the longest path that names a file, quoted, and as much again for all else.
_HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What to serve, and how; click fills it.

    Attributes:
        root: the mirror's folder.
        layout: as on disk.
        tokens: who may read; empty: everybody.
        only_proved: leave out what no record of ours vouches for.
        public_url: how clients reach us, where a proxy stands before us.
        most_clients: connections at once; more wait.
        stall_s: a client that takes nothing for so long is cut off.
        grace_s: how long a stop waits for answers under way.
        access_log: a line an answer on stdout.
        as_json: those lines are JSON.
    """

    root: Path
    layout: Literal["cache", "folders"] = "cache"
    host: str = "127.0.0.1"
    port: int = 8080
    tokens: tuple[str, ...] = ()
    only_proved: bool = False
    public_url: str | None = None
    most_clients: int = 1024
    stall_s: float = 60.0
    grace_s: int = 30
    access_log: bool = True
    as_json: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None


def open_mirror(options: ServeOptions) -> Mirror:
    """Return the mirror that the options name."""
    kind = CacheMirror if options.layout == "cache" else FolderMirror
    return kind(options.root, only_proved=options.only_proved)


def prepare(options: ServeOptions) -> Any:
    """Return the server, ready to `serve`.

    Raises:
        UsageError: the server is not installed, or the address is not ours.
        DiskError: the mirror cannot be read.
        LockedError: somebody listens there.
    """
    try:
        from granian import Granian  # type: ignore[attr-defined, unused-ignore]
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.log import LogLevels
    except ImportError:
        raise UsageError(
            "`fetchverify mirror serve` needs a server that is not installed",
            hint="pip install 'fetchverify[serve]'",
        ) from None
    try:
        with os.scandir(options.root):
            pass
    except OSError as error:
        raise DiskError(f"cannot read the mirror `{options.root}`: {error.strerror}") from error
    _check_address(options.host, options.port)
    _check_certificate(options.tls_cert, options.tls_key)
    return Granian(
        "fetchverify",  # for its messages; the application comes by the loader
        address=options.host,
        port=options.port,
        interface=Interfaces.ASGINL,
        # One: counters and listings are one process's; the wire is in threads that hold no lock of Python's.
        workers=1,
        http=HTTPModes.http1,
        websockets=False,
        backlog=max(128, options.most_clients),
        backpressure=options.most_clients,
        http1_settings=HTTP1Settings(header_read_timeout=_HEADER_MS, max_buffer_size=_HEAD_BYTES),
        log_level=LogLevels.warning,
        log_dictconfig={"handlers": _HANDLERS},
        ssl_cert=options.tls_cert,
        ssl_key=options.tls_key,
        respawn_failed_workers=True,
        workers_kill_timeout=options.grace_s,
    )


_HANDLERS = {
    name: {"formatter": "generic", "class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    for name in ("console", "access")
}


def serve(server: Any, options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM; then finish what is under way, up to `grace_s`."""
    try:
        server.serve(target_loader=partial(make_application, options, os.getpid()), wrap_loader=False)
    except SystemExit as error:
        raise UsageError("the server could not start, or ended by itself; what it said stands above") from error


def make_application(options: ServeOptions, parent: int) -> Application:
    """Return the application; called in the process that serves."""
    _die_with(parent)
    _take_descriptors()
    mirror = open_mirror(options)
    answers = Answers(mirror, access=Access.of(options.tokens), public_url=options.public_url)
    return Application(
        answers,
        healthy=partial(_look, options.root),
        stall_s=options.stall_s,
        log=_AccessLog(as_json=options.as_json) if options.access_log else None,
        trouble=_tell,
        on_first=partial(_bound_silence, options.stall_s),
    )


class _AccessLog:
    """Writes to stdout, until nobody reads it any more."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._broken = False

    def __call__(self, served: Served) -> None:
        if self._broken:
            return
        try:
            os.write(1, (log_line(served, as_json=self._as_json) + "\n").encode())
        except OSError as error:
            self._broken = True
            _tell(f"the access log ends here: {error.strerror}")


def _tell(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(f"warning: {text}\n")
        sys.stderr.flush()


def _look(root: Path) -> None:
    with os.scandir(root) as entries:
        next(entries, None)


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, which may be killed without a chance to tell us.

    Not by SIGTERM: a stop waits for downloads, and only the parent knows for how long.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late: it is gone already
            os._exit(1)


def _bound_silence(most_s: float) -> None:
    """Have the kernel end connections of which the other side takes nothing for so long, be it dead or unwilling.

    The server has no such deadline: what lies in its own buffers would wait for ever, and so would the connection.
    What is set on the socket that listens holds for each connection that it accepts. Source: tcp(7), TCP_USER_TIMEOUT.
    """
    import socket

    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(most_s * 1000)))
        except OSError:  # closed since
            continue


def _take_descriptors() -> None:
    """Allow as many open files as we may: a client takes two."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_certificate(cert: Path | None, key: Path | None) -> None:
    """Read certificate and key once: the server would find out in another process, over and over."""
    if cert is None:
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "reason", None) or error.strerror
        raise UsageError(f"`{cert}` and `{key}` are no certificate and its key, in PEM: {why}") from error


def _check_address(host: str, port: int) -> None:
    """Find out whether we may listen there: the server shares a port with whoever else would, and says so to nobody."""
    import errno
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise UsageError(f"`{host}` is no address of this machine: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LockedError(f"somebody listens on port {port} of `{host}` already") from error
        raise UsageError(f"cannot listen on port {port} of `{host}`: {error.strerror}") from error
