"""Answers on the wire of an ASGI server: bodies in, files out, deadlines, clients that went away, the access log.

Files are sent by the kernel where the server can have it do so (`http.response.zerocopysend`), else in pieces of up
to 1 MiB, as over TLS.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import quote

from fetchverify.serve.answers import MOST_BODY, Answer, Answers, FilePart, Request
from fetchverify.serve.counts import CONTENT_TYPE, Broken, Counts
from fetchverify.serve.zerocopy import EXTENSION, CutShortError

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

MiB = 1 << 20
_PIECE, _LEAST_PIECE = MiB, 64 << 10
# Of all clients together; one piece is with each of us and the server.
_PIECES, _PIECES_A_CLIENT = 128 * MiB, 2
_DISK_S = 30.0  # a disk that has not answered by then is taken for dead; the thread stays with it
_BODY_S = 30.0
_HEALTH_S = 5.0
_DROP_S = 1.0
_NOW = getattr(os, "RWF_NOWAIT", 0)
_CUT = "a file of the mirror was cut while it was served"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One answer, for the access log.

    Attributes:
        path: without the query, quoted as it came.
        sent: bytes of the body.
        broken: who ended it early.
    """

    client: str
    method: str
    path: str
    status: int
    sent: int
    seconds: float
    broken: Broken | None


class Application:
    """The ASGI application; all its state but the answers lives on one event loop."""

    def __init__(
        self,
        answers: Answers,
        *,
        healthy: Callable[[], object],
        stall_s: float,
        log: Callable[[Served], None] | None,
        trouble: Callable[[str], None],
        threads: Executor,
    ) -> None:
        """Serve answers.

        Args:
            answers: what to say.
            healthy: raises OSError where the mirror's disk is not there; blocks.
            stall_s: a client that takes no piece for so long is cut off.
            log: is told each answer.
            trouble: is told what the operator should know.
            threads: that may wait for the disk.
        """
        self._answers = answers
        self._healthy = healthy
        self._stall_s = stall_s
        self._log = log
        self._trouble = trouble
        self._counts = Counts()
        self._threads = threads
        self._dropping: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        self._counts.under_way += 1
        answer = _FAILED
        sent, broken = 0, None
        try:
            try:
                answer = await self._answer(scope, receive)
            except (OSError, TimeoutError) as error:
                self._trouble(
                    f"cannot read the mirror: {getattr(error, 'strerror', None) or 'the disk does not answer'}"
                )
                answer = _plain(503, "the mirror's disk does not answer", ("Retry-After", "30"))
            zerocopy = EXTENSION in (scope.get("extensions") or {})
            sent, broken = await self._send(answer, scope["method"], receive, send, zerocopy=zerocopy)
        finally:
            if isinstance(answer.body, FilePart):
                os.close(answer.body.fd)
            self._counts.under_way -= 1
            self._counts.answered(answer, sent, broken)
            if self._log is not None:
                self._log(_served(scope, answer, sent, broken, time.monotonic() - started))

    # -- what to say

    async def _answer(self, scope: Message, receive: Receive) -> Answer:
        path, method = _raw_path(scope), scope["method"]
        if path == "/metrics":
            return _plain(200, self._counts.text(), ("Content-Type", CONTENT_TYPE), route="metrics")
        if path == "/healthz":
            try:
                await self._in_thread(self._healthy, _HEALTH_S)
            except (OSError, TimeoutError):
                return _plain(503, "the mirror's disk does not answer\n", route="healthz")
            return _plain(200, "ok\n", route="healthz")
        body = b""
        if method == "POST":
            read = await _body(receive)
            if isinstance(read, Answer):
                return read
            body = read
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        server = scope.get("server") or ("localhost", None)
        request = Request(
            method=method,
            path=path,
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            body=body,
            origin=f"{scope.get('scheme', 'http')}://{server[0]}" + (f":{server[1]}" if server[1] else ""),
        )
        known = self._answers.at_once(request)
        if known is not None:
            return known
        answer: Answer = await self._in_thread(partial(self._answers.answer, request), _DISK_S, on_late=_let_go)
        if self._dropping is None and isinstance(answer.body, FilePart):
            self._dropping = asyncio.get_running_loop().call_later(_DROP_S, self._drop_old)
        return answer

    def _drop_old(self) -> None:
        left = self._answers.drop_old()
        self._dropping = asyncio.get_running_loop().call_later(_DROP_S, self._drop_old) if left else None

    async def _in_thread(
        self, work: Callable[[], Any], most_s: float, *, on_late: Callable[[asyncio.Future[Any]], None] | None = None
    ) -> Any:
        """Return what `work` returns; TimeoutError where that takes too long, `on_late` then gets it in the end."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            await asyncio.wait((future,), timeout=most_s)  # `wait_for` would cancel it, and lose what it opened
        except asyncio.CancelledError:
            future.add_done_callback(on_late or _forget)
            raise
        if not future.done():
            future.add_done_callback(on_late or _forget)
            raise TimeoutError
        return future.result()

    # -- saying it

    async def _send(
        self, answer: Answer, method: str, receive: Receive, send: Send, *, zerocopy: bool
    ) -> tuple[int, Broken | None]:
        """Send an answer; returns the bytes of its body that were taken, and who ended it early."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        if answer.status != 304:
            headers.append((b"Content-Length", str(answer.length).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = answer.body
        if isinstance(body, FilePart) and method != "HEAD" and body.start < body.stop:
            if zerocopy and body.stop - body.start > _LEAST_PIECE:  # below, a read is cheaper than a thread
                return await self._have_sent(body, send)
            return await self._send_file(body, receive, send)
        small = body if isinstance(body, bytes) and method != "HEAD" else b""
        await send({"type": "http.response.body", "body": small, "more_body": False})
        return len(small), None

    async def _have_sent(self, part: FilePart, send: Send) -> tuple[int, Broken | None]:
        count = part.stop - part.start
        try:
            with io.FileIO(part.fd, closefd=False) as file:
                await send({"type": EXTENSION, "file": file, "offset": part.start, "count": count})
        except CutShortError as error:
            if error.by == "disk":
                why = f"cannot read the mirror: {error}" if str(error) else _CUT
                self._trouble(why)
            return error.sent, error.by
        except TimeoutError:
            return 0, "stalled"
        except OSError:
            return 0, "client"
        self._counts.sent_by_kernel += count
        return count, None

    async def _send_file(self, part: FilePart, receive: Receive, send: Send) -> tuple[int, Broken | None]:
        at = part.start
        gone: asyncio.Task[None] | None = None
        try:
            while at < part.stop:
                most = max(_LEAST_PIECE, min(_PIECE, _PIECES // (_PIECES_A_CLIENT * self._counts.under_way)))
                data = await self._read(part.fd, min(most, part.stop - at), at)
                if not data:
                    self._trouble(_CUT)
                    return at - part.start, "disk"
                if gone is not None and gone.done():
                    return at - part.start, "client"
                more = at + len(data) < part.stop
                message = {"type": "http.response.body", "body": data, "more_body": more}
                if not more and gone is None:
                    await send(message)  # the only piece, which the server takes whatever the client does
                    return len(data), None
                try:
                    await asyncio.wait_for(send(message), self._stall_s)
                except TimeoutError:
                    return at - part.start, "stalled"
                at += len(data)
                if more and gone is None:
                    gone = asyncio.ensure_future(_gone(receive))
            return at - part.start, None
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
                return at - part.start, "client"  # some servers raise for a client that went away
            self._trouble(f"cannot read the mirror: {error.strerror}")
            return at - part.start, "disk"
        finally:
            if gone is not None:
                gone.cancel()

    async def _read(self, fd: int, count: int, at: int) -> bytes:
        """Return bytes of a file: at once where they are in memory, else by a thread that waits for the disk."""
        if _in_memory(fd, at) and _in_memory(fd, at + count - 1):
            return os.pread(fd, count, at)
        return await asyncio.get_running_loop().run_in_executor(self._threads, os.pread, fd, count, at)


def _in_memory(fd: int, at: int) -> bool:
    """Return whether one byte can be had without waiting for the disk; False where that cannot be asked."""
    if not _NOW:
        return False
    try:
        return os.preadv(fd, [bytearray(1)], at, _NOW) == 1
    except OSError:
        return False


async def _gone(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes | Answer:
    """Return a request's body, or the refusal of one that is too long or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return _plain(400, "Bad Request")
                body += message.get("body", b"")
                if len(body) > MOST_BODY:
                    return _plain(413, "Content Too Large", ("Connection", "close"))
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return _plain(408, "Request Timeout", ("Connection", "close"))


def _raw_path(scope: Message) -> str:
    """Return the path as it was on the wire; servers that do not keep it give us the unquoted one."""
    raw = scope.get("raw_path")
    if isinstance(raw, bytes) and raw:
        return raw.partition(b"?")[0].decode("latin-1")
    return quote(scope["path"], safe="/")


def _plain(status: int, text: str, *headers: tuple[str, str], route: Any = "nothing") -> Answer:
    body = text.encode()
    if not any(name == "Content-Type" for name, _ in headers):
        headers = (*headers, ("Content-Type", "text/plain; charset=utf-8"))
    return Answer(status=status, route=route, headers=headers, body=body, length=len(body))


_FAILED = _plain(500, "Internal Server Error")


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _let_go(future: asyncio.Future[Any]) -> None:
    """Close the file of an answer that nobody waits for any more."""
    if not future.cancelled() and future.exception() is None and isinstance(future.result().body, FilePart):
        os.close(future.result().body.fd)


def _served(scope: Message, answer: Answer, sent: int, broken: Broken | None, seconds: float) -> Served:
    client = scope.get("client")
    return Served(
        client=client[0] if client else "-",
        method=scope["method"],
        path=_raw_path(scope),
        status=answer.status,
        sent=sent,
        seconds=seconds,
        broken=broken,
    )


def log_line(served: Served, *, as_json: bool) -> str:
    """Return a line for the access log: one JSON object, or words; what the client sent cannot break out of it."""
    fields = {
        "kind": "Served",
        "time": round(time.time(), 3),
        "client": served.client,
        "method": served.method,
        "path": served.path[:2000],
        "status": served.status,
        "sent": served.sent,
        "seconds": round(served.seconds, 4),
        "broken": served.broken,
    }
    if as_json:
        return json.dumps(fields)
    words = json.dumps(f"{served.method} {served.path[:2000]}")
    end = f" broken by {served.broken}" if served.broken else ""
    return f"{served.client} {words} {served.status} {served.sent} {served.seconds:.3f}s{end}"
