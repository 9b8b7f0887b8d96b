"""Small servers that say exactly what a test wrote down, and proxies that only carry bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# What a connection does with one request: gets the socket and the request's head.
Answer = Callable[[socket.socket, bytes], None]


@dataclass
class Scripted:
    """A running server: its port, the heads it saw, and how many connections it took."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0


def say(*pieces: bytes, pause_s: float = 0.0) -> Answer:
    """Send the pieces one by one, each in a segment of its own where `pause_s` is given."""

    def answer(sock: socket.socket, head: bytes) -> None:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause_s)

    return answer


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run `handle` in a thread for every connection to a port of this machine."""
    server = socket.create_server(("127.0.0.1", 0))
    open_: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            handle(sock)

    def accept() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_.append(sock)
            threads.append(threading.Thread(target=one, args=(sock,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        accepting.join()
        for sock in open_:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


@contextmanager
def scripted(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Serve the answers in order, over however many connections the requests come; then hang up."""
    left = list(answers)
    seen = Scripted(port=0)
    lock = threading.Lock()

    def handle(sock: socket.socket) -> None:
        with lock:
            seen.connections += 1
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True)
        with sock:
            for head in heads_of(sock):
                with lock:
                    seen.heads.append(head)
                    answer = left.pop(0) if left else None
                if answer is None:
                    return
                answer(sock, head)

    with listening(handle) as port:
        seen.port = port
        yield seen


def heads_of(sock: socket.socket) -> Iterator[bytes]:
    """Yield the heads of requests without bodies, also where several come at once, until the peer hangs up."""
    rest = b""
    while True:
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            yield head + b"\r\n\r\n"
        piece = sock.recv(65536)
        if not piece:
            return
        rest += piece


def read_head(sock: socket.socket) -> bytes:
    """Return a request's head, or b"" where the peer hung up."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(65536)
        if not piece:
            return b""
        head += piece
    return head


def carry(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until a side hangs up."""
    with other:
        while True:
            pending = [s for s in (one, other) if isinstance(s, ssl.SSLSocket) and s.pending()]
            ready = pending or select.select([one, other], [], [], 30)[0]
            for sock in ready:
                data = sock.recv(65536)
                if not data:
                    return
                (other if sock is one else one).sendall(data)


@contextmanager
def http_proxy(*, tls: ssl.SSLContext | None = None, password: bool = False) -> Iterator[Scripted]:
    """A proxy for CONNECT and for absolute addresses; over TLS itself where `tls` is given."""
    seen = Scripted(port=0)

    def handle(sock: socket.socket) -> None:
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True)
        with sock:
            head = read_head(sock)
            seen.heads.append(head)
            seen.connections += 1
            method, target, _ = head.split(b" ", 2)
            if password:
                sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            if method == b"CONNECT":
                host, _, port = target.decode().rpartition(":")
                upstream = socket.create_connection((host, int(port)))
                sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                place, _, path = target.decode().removeprefix("http://").partition("/")
                host, _, port = place.partition(":")
                upstream = socket.create_connection((host, int(port)))
                upstream.sendall(head.replace(target, b"/" + path.encode(), 1))
            carry(sock, upstream)

    with listening(handle) as port:
        seen.port = port
        yield seen


@contextmanager
def socks_proxy() -> Iterator[Scripted]:
    """A SOCKS5 proxy without a password (RFC 1928)."""
    seen = Scripted(port=0)

    def handle(sock: socket.socket) -> None:
        sock.recv(1024)
        sock.sendall(b"\x05\x00")
        asked = sock.recv(1024)
        seen.connections += 1
        if asked[3] == 1:
            host, rest = socket.inet_ntoa(asked[4:8]), asked[8:]
        else:
            host, rest = asked[5 : 5 + asked[4]].decode(), asked[5 + asked[4] :]
        upstream = socket.create_connection((host, struct.unpack(">H", rest[:2])[0]))
        sock.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        carry(sock, upstream)

    with listening(handle) as port:
        seen.port = port
        yield seen
