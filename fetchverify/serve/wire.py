"""HTTP on the sockets: uvicorn, with the limits that it leaves to others, and with files that the kernel sends.

What uvicorn does not have, and strangers need: a deadline and a longest length for a request's head, a bound on
connections (more wait to be accepted), and an end for clients that leave a body lying.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from fetchverify.serve.zerocopy import EXTENSION, send_part

_HEAD_S = 30.0
_IDLE_S = 75  # as nginx's keepalive_timeout
_HANDSHAKE_S = 30.0
# Of a request's head: the longest path that names a file, quoted, and as much again for all else.
_HEAD_BYTES = 64 << 10
_PIPELINED = 16
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may cost.

    Attributes:
        most_clients: connections at once; more wait.
        stall_s: a client that takes nothing for so long is cut off.
        grace_s: how long a stop waits for answers under way.
    """

    most_clients: int
    stall_s: float
    grace_s: int


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        *,
        stall_s: float,
        threads: Executor,
        on_end: Callable[[], None],
    ) -> None:
        """Speak HTTP with a client.

        Args:
            config: of the server.
            server_state: of the server.
            stall_s: a client that takes nothing for so long is cut off.
            threads: that may wait for the disk.
            on_end: is called when the connection is over.
        """
        super().__init__(config, server_state, {})
        self.stall_s = stall_s
        self.threads = threads
        self._on_end = on_end
        self._head_bytes = 0
        self._in_body = False
        self._asked = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: the first request has a deadline, too."""
        super().connection_made(transport)
        if self.scheme == "http":
            # All or nothing: who waits for the buffer waits until it is empty. (Over TLS that never comes true.)
            transport.set_write_buffer_limits(high=0)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another client."""
        self._forget_head()
        super().connection_lost(exc)
        self._on_end()

    def data_received(self, data: bytes) -> None:
        """Take what a client says, as long as it comes to the point."""
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_body and self._head_bytes > _HEAD_BYTES:
            self.send_400_response("The request's head is too long.")
        elif self._is_idle():
            self._await_head()

    def on_headers_complete(self) -> None:
        """Begin to answer, or to queue."""
        self._forget_head()
        self._head_bytes = 0
        self._in_body = True
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _HEAD_BYTES:
            raise ValueError("the head is too long")  # the parser makes a refusal of it
        super().on_headers_complete()
        self._asked = True
        if len(self.pipeline) > _PIPELINED:
            raise ValueError("too many requests at once")

    def on_message_complete(self) -> None:
        """Expect the next head."""
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; not in the middle of an answer, where it would look like a part of the file."""
        if self._is_idle():
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, partial(_answered, self, cycle, app))

    def _is_idle(self) -> bool:
        return not self._asked or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_S, self._head_is_late)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_idle():
            self.transport.abort()


async def _answered(
    connection: Connection, cycle: RequestResponseCycle, app: App, scope: Any, receive: Any, send: Any
) -> None:
    """Run the application with the extension; an answer that it leaves half is ended at once, whoever still reads."""
    if connection.scheme == "http":
        scope["extensions"] = {EXTENSION: {}}
        send = partial(_send, connection, cycle)
    try:
        await app(scope, receive, send)
    finally:
        if cycle.response_started and not cycle.response_complete:
            cycle.disconnected = True
            cycle.transport.abort()


async def _send(connection: Connection, cycle: RequestResponseCycle, message: Any) -> None:
    """Be the `send` of an answer, with `http.response.zerocopysend` besides."""
    if message["type"] != EXTENSION:
        await cycle.send(message)
        return
    start, count = message["offset"], message["count"]
    if cycle.flow.write_paused:
        async with asyncio.timeout(connection.stall_s):
            await cycle.flow.drain()
    if cycle.disconnected or cycle.transport.is_closing():
        raise ConnectionResetError
    # Ours, so that it names this connection until we are done, whatever becomes of the transport.
    own = os.dup(cycle.transport.get_extra_info("socket").fileno())
    try:
        await send_part(
            own,
            message["file"].fileno(),
            start,
            start + count,
            stall_s=connection.stall_s,
            threads=connection.threads,
            is_gone=lambda: cycle.disconnected,
        )
    finally:
        os.close(own)
    cycle.expected_content_length -= count
    await cycle.send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})


class Server(uvicorn.Server):
    """uvicorn's server, except that it accepts no more clients than it may have."""

    def __init__(self, config: uvicorn.Config, limits: Limits, threads: Executor) -> None:
        """Serve `config.app` within limits; files are read in `threads`."""
        super().__init__(config)
        self._limits = limits
        self._threads = threads
        self._room = asyncio.Semaphore(limits.most_clients)
        self._accepting: list[asyncio.Task[None]] = []
        self._greeting: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets=[])
        self._accepting = [asyncio.ensure_future(self._accept(listener)) for listener in sockets or []]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody any more, and finish what is under way."""
        for task in (*self._accepting, *self._greeting):
            task.cancel()
        await asyncio.gather(*self._accepting, *self._greeting, return_exceptions=True)
        await super().shutdown(sockets=sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._room.release()
                if error.errno in _NO_ROOM:
                    await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._greet(client))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, client: socket.socket) -> None:
        """Make a connection of a client; over TLS that takes as long as the client likes, up to a deadline."""
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._room.release()

        made = partial(
            Connection,
            self.config,
            self.server_state,
            stall_s=self._limits.stall_s,
            threads=self._threads,
            on_end=leave,
        )
        tls = self.config.ssl
        try:
            client.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(
                made, client, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_S if tls else None
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError) as error:
            client.close()
            leave()
            if isinstance(error, asyncio.CancelledError):
                raise


def serve(app: App, listener: socket.socket, limits: Limits, threads: Executor, *, cert: Any, key: Any) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # that a stranger speaks no HTTP is no news
        access_log=False,
        proxy_headers=False,  # anybody could write them
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=limits.grace_s,
        ssl_certfile=cert,
        ssl_keyfile=key,
    )
    Server(config, limits, threads).run([listener])
