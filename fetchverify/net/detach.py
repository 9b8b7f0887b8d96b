"""An httpx transport whose response bodies are read by `recv_into` on the connection's own socket.

httpx loses its time in h11: 64 KiB reads and four copies. Here the head (status, redirects, authentication, TLS) stays
httpx's and h11's; they are told that a marked response has no body, and the body is read behind their back, to its
very last byte. Then the connection is as they believe it to be, and is kept alive. While a body is read, other ranges
and addresses of the same host can be asked for on its connection: the server begins to send them when it is done with
the first, and no round trip passes in silence.

Only public interfaces of httpcore are used: `NetworkBackend`, `NetworkStream`, `ConnectionPool`. Direct connections
only: what goes through a proxy is left to httpx.
"""

from __future__ import annotations

import importlib
import re
import socket
import ssl
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

if TYPE_CHECKING:
    import httpcore2 as httpcore
else:
    # The one that belongs to the hub's httpx: the other's exceptions and pools are strangers to it.
    httpcore = importlib.import_module("httpcore2" if httpx.__name__ == "httpx2" else "httpcore")

# The extension of a request that asks for its body to be left on the socket.
DETACH = "fetchverify_detach"
_READ_AT_ONCE = 64 * 1024
# h11's own limit for a head (`DEFAULT_MAX_INCOMPLETE_EVENT_SIZE`, 16 KiB) is httpcore's 100 KiB here.
_LONGEST_HEAD = 100 * 1024
_GOOD = frozenset((b"200", b"206"))
_MOVED = frozenset((b"301", b"302", b"303", b"307", b"308"))
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})(?: [^\r\n]*)?\r\n")
_LENGTH = re.compile(rb"\r\n(content-length:[ \t]*(\d{1,18})[ \t]*)(?=\r\n)", re.IGNORECASE)
_ANY_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:", re.IGNORECASE)
# Chunks, a coding, a connection that ends or changes its language: none of our business, h11 reads it.
_NOT_OURS = re.compile(rb"\r\n(?:transfer-encoding|content-encoding|upgrade)[ \t]*:", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection[ \t]*:[^\r\n]*\bclose\b", re.IGNORECASE)
_RANGE = re.compile(rb"\r\nrange:[^\r\n]*", re.IGNORECASE)
_IF_RANGE = re.compile(rb"\r\nif-range:", re.IGNORECASE)
_TARGET = re.compile(rb"\AGET (/[!-~]*) (?=HTTP/1\.1\r\n)")
# A reader is woken as often as this at the most, and for so many bytes at the most: 16 threads that are woken for every
# segment of TCP spend as much time on that as on the bytes.
_WAKE_EVERY_S, _FIRST_TO_WAKE, _MOST_TO_WAKE = 0.008, 8 * 1024, 256 * 1024
_LEAST_MEASURED = 16 * 1024
_LONGEST_RECORD = 17 * 1024
_CAN_WAIT_FOR_MORE = sys.platform == "linux"
# `fill` gives back what it has after this long, so that slow lines show progress and lose little when they break.
PATIENCE_S = 0.5


class BodyEnded(Exception):  # noqa: N818 - an event of the line, not an error of ours
    """The peer closed the connection before the last byte."""


class DetachedBody:
    """The body of one response, still on its socket; read by one thread.

    Attributes:
        left: bytes that were not read yet.
        stream: the connection.
    """

    def __init__(self, stream: _Stream, sock: socket.socket, length: int, begun: bytes, timeout: float | None) -> None:
        self.stream = stream
        self._begun = memoryview(begun)
        self._sock = sock
        self._read = _reader(sock)
        # What OpenSSL read of a record without being able to give it out does not come again.
        self._held = _LONGEST_RECORD if isinstance(sock, ssl.SSLSocket) else 0
        self._timeout = timeout
        self.left = length

    def fill(self, into: memoryview) -> int:
        """Read up to `len(into)` bytes, at least one where any is left; fewer only where the line is slow.

        Raises:
            BodyEnded: the peer closed before the last byte; bytes read in this call were returned by it before.
            OSError: the socket broke (also `ssl.SSLError`, `TimeoutError`).
        """
        want, done = min(len(into), self.left), 0
        if self._begun:
            done = min(want, len(self._begun))
            into[:done] = self._begun[:done]
            self._begun = self._begun[done:]
        began, begun = time.monotonic(), done
        try:
            while done < want:
                count = self._read_some(into[done:want], self.left - done)
                if count == 0:
                    raise BodyEnded
                done += count
                if time.monotonic() > began + PATIENCE_S:
                    break
        except (OSError, BodyEnded):
            if not done:
                raise
        if done - begun > _LEAST_MEASURED:
            rate = (done - begun) / max(time.monotonic() - began, 1e-6)
            self.stream.wake_at = min(_MOST_TO_WAKE, int(rate * _WAKE_EVERY_S))
        self.left -= done
        return done

    def _read_some(self, into: memoryview, left: int) -> int:
        """Read once, when a good piece of what is `left` has come, or after a while whatever has."""
        enough = min(self.stream.wake_at, left - self._held)
        if self.stream.set_wake_at(self._sock, enough):
            self._sock.settimeout(PATIENCE_S)
            try:
                return int(self._read(into))
            except TimeoutError:
                self.stream.wake_at = 1
                self.stream.set_wake_at(self._sock, 1)
        self._sock.settimeout(self._timeout)
        return int(self._read(into))


def _reader(sock: socket.socket) -> Any:
    if isinstance(sock, ssl.SSLSocket):
        read = sock.read
        # One Python frame less a TLS record of 16 KiB than `recv_into`.
        return lambda view: read(len(view), view)
    return sock.recv_into


def shut_down(sock: socket.socket) -> None:
    """Make a read or write under way in another thread fail at once."""
    try:
        # Not `SSLSocket.shutdown`: it drops the TLS object under the feet of the thread that reads from it.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # closed already


class _Marks(threading.local):
    """What a transport's connections share: whether the request that this thread sends wants its body detached.

    Attributes:
        wanted: of this thread.
        streams: of all threads; every connection that is not forgotten yet, guarded by `lock`.
        way: of all threads.
    """

    wanted = False

    def __init__(self, streams: weakref.WeakSet[_Stream], lock: threading.Lock, way: Way) -> None:
        self.streams = streams
        self.lock = lock
        self.way = way


@dataclass(slots=True)
class Way:
    """What is known of the way to the server.

    Attributes:
        far: bytes come by and by, and a reader that keeps up is woken for each few of them.
    """

    far: bool = False


class Head(NamedTuple):
    """The head of an answer that no parser of httpx's saw."""

    status: int
    headers: list[tuple[bytes, bytes]]


class _Stream(httpcore.NetworkStream):
    """A connection that hides the bodies of marked responses from the parser above it.

    Attributes:
        body: what was hidden last.
        asked_ahead: how many answers follow that the parser knows nothing of.
        wake_at: how many bytes are worth being woken for, at the speed of this connection.
    """

    def __init__(self, inner: httpcore.NetworkStream, marks: _Marks) -> None:
        self._inner = inner
        self._marks = marks
        self._awaits_head = False
        self._request = b""
        self._stays = False
        self._surplus = b""
        self._wakes_at = 1
        self.wake_at = _FIRST_TO_WAKE
        self.asked_ahead = 0
        self.body: DetachedBody | None = None
        with marks.lock:
            marks.streams.add(self)

    def abort(self) -> None:
        """Make a read or write under way in another thread fail at once."""
        shut_down(self._inner.get_extra_info("socket"))

    def set_wake_at(self, sock: socket.socket, count: int) -> bool:
        """Have the kernel wake a reader when so many bytes came, which must be sure to come; return whether it does.

        Source: socket(7), `SO_RCVLOWAT`; Linux heeds it in `poll` since 2.6.28.
        """
        count = max(1, count) if self._marks.way.far else 1
        if count != self._wakes_at and _CAN_WAIT_FOR_MORE:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes_at = count
        return self._wakes_at > 1

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self.asked_ahead or (self.body is not None and self.body.left):
            raise httpcore.WriteError("the previous body was not read to its end")
        self.body = None
        self._awaits_head = self._marks.wanted
        if buffer:
            self._request = bytes(buffer)
        self._inner.write(buffer, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._wake_at_once()
        if not self._awaits_head:
            return self._inner.read(max_bytes, timeout)
        self._awaits_head = False
        read, start, stop = self._read_head(timeout)
        return self._hide(read, start, stop, timeout) if stop else read

    def _wake_at_once(self) -> None:
        """Have the next read return what comes first: nobody knows how much there will be."""
        if self._wakes_at > 1:
            self.set_wake_at(self._inner.get_extra_info("socket"), 1)

    def _read_head(self, timeout: float | None) -> tuple[bytes, int, int]:
        """Return what came, and where the final head lies in it; it ends at 0 where none came."""
        read, self._surplus = self._surplus, b""
        start = 0  # of the head that is looked for: interim heads come before the final one
        ended = False
        while True:
            while (stop := read.find(b"\r\n\r\n", start)) >= 0:
                if not _STATUS.match(read, start) or read[start + 9 : start + 10] != b"1":
                    return read, start, stop + 4
                start = stop + 4
            if ended or len(read) > _LONGEST_HEAD:
                return read, start, 0
            piece = self._inner.read(_READ_AT_ONCE, timeout)
            read, ended = read + piece, not piece

    def _hide(
        self, read: bytes, start: int, stop: int, timeout: float | None, statuses: frozenset[bytes] = _GOOD
    ) -> bytes:
        """Return what the parser may see of a final head and what follows it."""
        head, rest = read[start:stop], read[stop:]
        status = _STATUS.match(head)
        length = _LENGTH.search(head)
        if length is not None and self.asked_ahead > 1:
            size = int(length[2])
            rest, self._surplus = rest[:size], rest[size:]  # the begin of the answer after this one
        sock = self._inner.get_extra_info("socket")
        if (
            status is None
            or status[1] not in statuses
            or length is None
            or len(_ANY_LENGTH.findall(head)) != 1
            or _NOT_OURS.search(head)
            or len(rest) > int(length[2])
            or not isinstance(sock, socket.socket)
        ):
            return read
        self._stays = not _CLOSES.search(head)
        self.body = DetachedBody(self, sock, int(length[2]), rest, timeout)
        return read[:start] + head[: length.start(1)] + b"Content-Length: 0" + head[length.end(1) :]

    @property
    def can_ask_ahead(self) -> bool:
        """True where the server keeps the connection and the request names one range."""
        return self.body is not None and self._stays and len(_RANGE.findall(self._request)) == 1

    def ask_ahead(self, range_: str, if_range: str | None, timeout: float | None, target: bytes | None = None) -> None:
        """Send the last request once more, for another range, behind the parser's back.

        Args:
            range_: as in the header.
            if_range: an ETag, where the request names none yet.
            timeout: in seconds.
            target: another path of the same host, with its query.

        Source: RFC 9112 §9.3.2.
        """
        self.asked_ahead += 1
        wanted = b"\r\nRange: " + range_.encode("ascii")
        if if_range is not None and not _IF_RANGE.search(self._request):
            wanted += b"\r\nIf-Range: " + if_range.encode("latin-1")
        self._request = _RANGE.sub(lambda _: wanted, self._request)
        if target is not None:
            self._request = _TARGET.sub(lambda _: b"GET " + target + b" ", self._request)
        with _translated():
            self._inner.write(self._request, timeout)

    def advance(self, timeout: float | None) -> Head | None:
        """Go on to the answer asked ahead; the body before it was read to its end.

        `body` is its body afterwards, None where only a parser could read it; then nothing can be done with the
        connection any more.

        Returns:
            The head; None where the connection ended before its first byte, as a server may do at any time.
        """
        self.body = None
        self._wake_at_once()
        with _translated():
            read, start, stop = self._read_head(timeout)
        if not read:
            return None
        status = _STATUS.match(read, start)
        if not stop or status is None:
            raise httpx.RemoteProtocolError("what follows a body is no answer")
        self._hide(read, start, stop, timeout, _GOOD | _MOVED)
        self.asked_ahead -= self.body is not None
        lines = read[status.end() : stop - 4].split(b"\r\n")
        parts = [line.partition(b":") for line in lines if line]
        return Head(int(status[1]), [(name.strip(), value.strip()) for name, _, value in parts])

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._marks)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, marks: _Marks) -> None:
        self._inner = httpcore.SyncBackend()
        self._marks = marks

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._marks)


class DirectTransport(httpx.BaseTransport):
    """Direct HTTP/1.1 connections; `detached_body` finds the body of a response to a marked request.

    Attributes:
        way: to be filled in by whoever measures it.

    Each connection is a pool of its own, used by one request at a time, the one that was used last first. httpcore's
    pool looks at all of its connections for every request, under one lock: 32 threads that fetch small files would
    spend two thirds of their time on that.
    """

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._trust = ssl_context
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.way = Way()
        self._marks = _Marks(self._streams, self._lock, self.way)
        self._free: dict[tuple[bytes, bytes, int | None], deque[httpcore.ConnectionPool]] = {}
        self._all: list[httpcore.ConnectionPool] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response, the body unread."""
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        free, pool = self._take((url.raw_scheme, url.raw_host, url.port))
        self._marks.wanted = bool(request.extensions.get(DETACH))
        try:
            with _translated():
                answer = pool.handle_request(asked)
        except BaseException:
            _put_back(free, pool)
            raise
        finally:
            self._marks.wanted = False
        body = _body_of(answer.extensions)
        headers: Sequence[tuple[bytes, bytes]] = answer.headers
        if body is not None:
            told = str(body.left).encode()
            headers = [(name, told if name.lower() == b"content-length" else value) for name, value in headers]
        rest = _Rest(answer.stream, lambda: _put_back(free, pool))
        return httpx.Response(answer.status, headers=headers, stream=rest, extensions=answer.extensions)

    def _take(
        self, origin: tuple[bytes, bytes, int | None]
    ) -> tuple[deque[httpcore.ConnectionPool], httpcore.ConnectionPool]:
        """Return a connection that nobody uses, and those to put it back to."""
        with self._lock:
            free = self._free.setdefault(origin, deque())
            if free:
                return free, free.pop()
            pool = httpcore.ConnectionPool(
                ssl_context=self._trust,
                max_connections=1,
                keepalive_expiry=30,
                network_backend=_Backend(self._marks),
            )
            self._all.append(pool)
            return free, pool

    def abort(self) -> None:
        """Make whatever is under way on any connection fail at once, also where no head came yet."""
        with self._lock:
            streams = tuple(self._streams)
        for stream in streams:
            stream.abort()

    def close(self) -> None:
        """Close every connection."""
        for pool in self._all:
            pool.close()


def _put_back(free: deque[httpcore.ConnectionPool], pool: httpcore.ConnectionPool) -> None:
    """Have the pool used next where its connection lives; where it was closed, after those that live."""
    (free.append if pool.connections else free.appendleft)(pool)


def detached_body(response: httpx.Response) -> DetachedBody | None:
    """Return the body that is still on the socket, or None where the response's own stream holds it."""
    return _body_of(response.extensions)


def _body_of(extensions: Any) -> DetachedBody | None:
    stream = extensions.get("network_stream")
    return stream.body if isinstance(stream, _Stream) else None


class _Rest(httpx.SyncByteStream):
    """What h11 still has of a response: its end, where the body was detached.

    Args:
        inner: httpcore's stream.
        closed: called once, when the connection is free again.
    """

    def __init__(self, inner: Any, closed: Callable[[], object]) -> None:
        self._inner = inner
        self._closed: Callable[[], object] | None = closed

    def __iter__(self) -> Iterator[bytes]:
        with _translated():
            yield from self._inner

    def close(self) -> None:
        try:
            with _translated():
                self._inner.close()
        finally:
            closed, self._closed = self._closed, None
            if closed is not None:
                closed()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise httpx's exceptions for httpcore's, which bear the same names."""
    try:
        yield
    except Exception as error:
        kind = getattr(httpx, type(error).__name__, None)
        if kind is None or not type(error).__module__.startswith(httpcore.__name__):
            raise
        raise kind(str(error)) from error
