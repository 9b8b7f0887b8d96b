"""Sets the server up: the address, the certificate, what it serves; `wire` speaks HTTP, `workers` keeps it alive."""

from __future__ import annotations

import errno
import os
import socket
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fetchverify.errors import DiskError, LockedError, UsageError
from fetchverify.serve.answers import Access, Answers
from fetchverify.serve.asgi import Application, Served, log_line
from fetchverify.serve.cached import CacheMirror
from fetchverify.serve.foldered import FolderMirror
from fetchverify.serve.mirror import Mirror
from fetchverify.serve.workers import keep_alive

_THREADS = 16  # each may wait for the disk


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


def prepare(options: ServeOptions) -> socket.socket:
    """Return the socket that listens, for `serve`.

    Raises:
        UsageError: the server is not installed, or the address is not ours.
        DiskError: the mirror cannot be read.
        LockedError: somebody listens there.
    """
    try:
        import fetchverify.serve.wire  # noqa: F401
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
    _check_certificate(options.tls_cert, options.tls_key)
    return _listen(options)


def serve(listener: socket.socket, options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM; then finish what is under way, up to `grace_s`.

    Raises:
        UsageError: the server cannot start.
    """
    with listener:
        keep_alive(partial(_work, listener, options), grace_s=options.grace_s)


def _work(listener: socket.socket, options: ServeOptions) -> None:
    """Serve in this process, which is there for nothing else."""
    from fetchverify.serve import wire

    _take_descriptors()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="serve")
    limits = wire.Limits(most_clients=options.most_clients, stall_s=options.stall_s, grace_s=options.grace_s)
    application = make_application(options, threads)
    wire.serve(application, listener, limits, threads, cert=options.tls_cert, key=options.tls_key)


def make_application(options: ServeOptions, threads: Executor) -> Application:
    """Return the application."""
    answers = Answers(open_mirror(options), access=Access.of(options.tokens), public_url=options.public_url)
    return Application(
        answers,
        healthy=partial(_look, options.root),
        stall_s=options.stall_s,
        log=_AccessLog(as_json=options.as_json) if options.access_log else None,
        trouble=_tell,
        threads=threads,
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


def _listen(options: ServeOptions) -> socket.socket:
    """Return a socket that listens."""
    host, port = options.host, options.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"`{host}` is no address of this machine: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # The kernel ends connections of which the other side takes nothing for so long, be it dead or unwilling:
            # the server would wait for ever to be rid of the end of a body. Connections inherit it. Source: tcp(7).
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(options.stall_s * 1000)))
        listener.bind(address)
        listener.listen(max(128, options.most_clients))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise LockedError(f"somebody listens on port {port} of `{host}` already") from error
        raise UsageError(f"cannot listen on port {port} of `{host}`: {error.strerror}") from error
    return listener
