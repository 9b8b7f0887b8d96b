"""The wire: sockets, threads and HTTP/1.1 framing, honest or not; what is sent is decided by the handler.

Each connection has a thread with a blocking socket. h11 reads the heads of requests; heads and bodies of responses
are written here, because h11 rightly refuses to lie about lengths.
"""

import contextlib
import os
import select
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import h11

from mock_server.messages import Headers, Origin, Request, Response

_READ = 64 * 1024
_PIECE = 512 * 1024
_SENDFILE_PIECE = 4 * 1024 * 1024
_HANDSHAKE_S = 10.0
_JOIN_S = 10.0
_DRAIN_S = 2.0
_MAX_REQUEST_BODY = 64 * 1024 * 1024


class Disconnected(Exception):  # noqa: N818 - an event, not an error
    """The peer has gone, or the server is closing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the handler wants sent, and whom to tell about it."""

    response: Response
    sent: Callable[[int], None]
    """Called with the bytes about to be sent, and with a negative number for those that were not."""
    end: Callable[[], None]


Handler = Callable[[Request], Answer]


class Server:
    """Listens for some origins and answers by `handler` until closed."""

    def __init__(
        self,
        handler: Handler,
        *,
        on_connect: Callable[[Origin, int], None],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._handler = handler
        self._on_connect = on_connect
        self._ssl = ssl_context
        self._listeners: dict[Origin, socket.socket] = {}
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Origin, socket.socket, threading.Thread]] = {}
        self._next = 0
        self.closing = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="mock-hub-accept", daemon=True)

    def listen(self, origin: Origin, host: str, port: int) -> int:
        """Open the port of an origin (0: any free one) and return it."""
        listener = socket.create_server((host, port), backlog=1024)
        self._listeners[origin] = listener
        listener.setblocking(False)
        # BBR, the default of some hosts, paces even loopback; accepted sockets inherit the choice.
        with contextlib.suppress(AttributeError, OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        port_given: int = listener.getsockname()[1]
        return port_given

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def close(self) -> None:
        """Stop at once: what is being sent is cut, and all threads are joined."""
        self.closing.set()
        self._wake_in.send(b"x")
        if self._acceptor.ident is not None:
            self._acceptor.join(_JOIN_S)
        with self._lock:
            remaining = list(self._open.values())
            for _, sock, _ in remaining:
                _shut(sock)
        for _, _, thread in remaining:
            thread.join(_JOIN_S)
        for listener in (*self._listeners.values(), self._wake_in, self._wake_out):
            listener.close()

    def count(self, origin: Origin) -> int:
        """Return how many connections an origin has open."""
        with self._lock:
            return sum(where == origin for where, _, _ in self._open.values())

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_out, selectors.EVENT_READ, None)
            for origin, listener in self._listeners.items():
                selector.register(listener, selectors.EVENT_READ, origin)
            while not self.closing.is_set():
                for key, _ in selector.select():
                    if key.data is not None:
                        self._accept_one(self._listeners[key.data], key.data)

    def _accept_one(self, listener: socket.socket, origin: Origin) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # the peer gave up, or no descriptor is free
            time.sleep(0.001)
            return
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._next += 1
            number = self._next
            thread = threading.Thread(
                target=self._run, args=(origin, number, sock), name=f"mock-hub-{origin}-{number}", daemon=True
            )
            self._open[number] = (origin, sock, thread)
        self._on_connect(origin, number)
        thread.start()

    def _run(self, origin: Origin, number: int, sock: socket.socket) -> None:
        try:
            if self._ssl is not None:
                # Registered before the handshake: wrapping detaches the plain socket, which `close` could not wake.
                sock = self._ssl.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open[number] = (origin, sock, self._open[number][2])
                if self.closing.is_set():
                    return
                sock.settimeout(_HANDSHAKE_S)
                sock.do_handshake()
                sock.settimeout(None)
            _Connection(self, origin, number, sock, self._handler).serve()
        except (OSError, Disconnected, h11.RemoteProtocolError):
            pass
        finally:
            with self._lock:
                self._open.pop(number, None)
                sock.close()


class _Connection:
    """One connection, served by one thread."""

    def __init__(self, server: Server, origin: Origin, number: int, sock: socket.socket, handler: Handler) -> None:
        self._server = server
        self._origin: Origin = origin
        self._number = number
        self._sock = sock
        self._handler = handler
        self._rest = b""
        self._last = False

    def serve(self) -> None:
        """Answer requests until one side closes."""
        while not self._server.closing.is_set():
            request = self._read_request()
            if request is None:
                return
            answer = self._handler(request)
            try:
                keep = self._send(request, answer)
            finally:
                answer.end()
            if not keep:
                return

    def _read_request(self) -> Request | None:
        parser = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        if self._rest:
            parser.receive_data(self._rest)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue:
                    self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                data = self._sock.recv(_READ)
                if not data and head is None:
                    return None
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > _MAX_REQUEST_BODY:
                    raise Disconnected
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return None
        assert head is not None
        self._rest = parser.trailing_data[0]
        said_close = any(key == b"connection" and value.lower() == b"close" for key, value in head.headers)
        self._last = said_close or head.http_version == b"1.0"
        # A proxy's request line holds a full URL.
        target = urlsplit(head.target.decode("latin-1"))
        return Request(
            origin=self._origin,
            method=head.method.decode("ascii"),
            path=target.path,
            query=target.query,
            headers=Headers(tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in head.headers)),
            body=body,
            connection=self._number,
            open_connections=self._server.count(self._origin),
        )

    def _send(self, request: Request, answer: Answer) -> bool:
        """Send a response and tell whether the connection may live on."""
        response, delivery = answer.response, answer.response.delivery
        if delivery.delay_s:
            self._pause(delivery.delay_s)
        if delivery.silent:
            return self._end(reset=delivery.reset)
        if delivery.raw is not None:
            self._sock.sendall(delivery.raw)
            return self._end(reset=False)
        for status, headers in delivery.interim:
            self._sock.sendall(_head(status, headers))
        ends = self._last or delivery.hang_up or (response.headers.get("connection") or "").lower() == "close"
        head = _head(response.status, response.headers)
        if request.method == "HEAD" or response.status in {204, 304}:
            self._sock.sendall(head)
            return not ends or self._end(reset=False)
        # Without a length only the end of the connection ends the body.
        ends = ends or not (response.chunked or response.headers.get("content-length"))
        stop = response.stop
        if delivery.cut_after is not None:
            stop = min(stop, response.start + delivery.cut_after)
        self._send_body(head, answer, stop)
        if delivery.cut_after is not None:
            return self._end(reset=delivery.reset)
        if response.chunked:
            self._sock.sendall(b"0\r\n\r\n")
        if delivery.extra:
            self._sock.sendall(delivery.extra)
        return not ends or self._end(reset=False)

    def _send_body(self, head: bytes, answer: Answer, stop: int) -> None:
        response, delivery = answer.response, answer.response.delivery
        at = response.start
        plain = not (response.chunked or delivery.rate or delivery.stall_s)
        if plain and response.content.path is not None and not isinstance(self._sock, ssl.SSLSocket):
            self._sock.sendall(head)
            self._send_file(response.content.path, at, stop, answer)
            return
        if plain and stop - at <= _PIECE:
            body = response.content.read(at, stop)
            self._send_counted(body, answer, head=head)
            return
        self._sock.sendall(head)
        if delivery.stall_s:
            silent_at = min(at + (delivery.stall_after or 0), stop)
            self._send_pieces(at, silent_at, answer)
            self._pause(delivery.stall_s)
            at = silent_at
        self._send_pieces(at, stop, answer)

    def _send_pieces(self, start: int, stop: int, answer: Answer) -> None:
        response, rate = answer.response, answer.response.delivery.rate
        step = _PIECE if rate is None else max(1, min(_PIECE, rate // 20))
        begun = time.monotonic()
        for piece in response.content.pieces(start, stop, step):
            frame = b"%x\r\n" % len(piece) if response.chunked else b""
            self._send_counted(piece, answer, head=frame, tail=b"\r\n" if response.chunked else b"")
            start += len(piece)
            if rate is not None:
                begun += len(piece) / rate
                self._pause(begun - time.monotonic())

    def _send_counted(self, body: bytes, answer: Answer, *, head: bytes = b"", tail: bytes = b"") -> None:
        answer.sent(len(body))
        try:
            self._sock.sendall(head + body + tail if head or tail else body)
        except OSError:
            answer.sent(-len(body))
            raise

    def _send_file(self, path: Path, start: int, stop: int, answer: Answer) -> None:
        if not hasattr(os, "sendfile") or sys.platform == "darwin":
            self._send_pieces(start, stop, answer)
            return
        with path.open("rb", buffering=0) as file:
            while start < stop:
                count = min(_SENDFILE_PIECE, stop - start)
                answer.sent(count)
                done = 0
                try:
                    done = os.sendfile(self._sock.fileno(), file.fileno(), start, count)
                finally:
                    answer.sent(done - count)
                if done == 0:  # the file shrank
                    raise Disconnected
                start += done

    def _pause(self, seconds: float) -> None:
        """Wait, but not for a peer that has gone nor past the closing of the server."""
        if seconds <= 0:
            return
        deadline = time.monotonic() + seconds
        hung_up = getattr(select, "POLLRDHUP", 0)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | hung_up)
        events = poll.poll(seconds * 1000)
        if self._server.closing.is_set() or any(
            what & (select.POLLHUP | select.POLLERR | hung_up) for _, what in events
        ):
            raise Disconnected
        if events:  # readable: another request already, or TLS chatter; the rest of the time no peer is watched
            self._server.closing.wait(max(deadline - time.monotonic(), 0))
            if self._server.closing.is_set():
                raise Disconnected

    def _end(self, *, reset: bool) -> bool:
        """Close this side by FIN or RST; always False."""
        if reset:
            self._drain()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            _shut(self._sock)
        return False

    def _drain(self) -> None:
        """Wait until the peer's kernel has all that was sent: an RST throws away what still lies in our buffer."""
        try:
            import fcntl  # noqa: PLC0415 - absent on Windows
            import termios  # noqa: PLC0415
        except ImportError:
            return
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline and not self._server.closing.is_set():
            left = struct.unpack("i", fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
            if left == 0:
                return
            time.sleep(0.001)


def _head(status: int, headers: Headers) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _shut(sock: socket.socket) -> None:
    # SSLSocket.shutdown would drop the TLS object under the feet of the thread that reads from it.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
