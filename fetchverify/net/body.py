"""The bytes of a response, and of those asked for behind it on its connection; read in order by one thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, Reason
from fetchverify.net import wire
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.detach import PATIENCE_S, BodyEnded, DetachedBody, detached_body, shut_down

if TYPE_CHECKING:
    from fetchverify.net.transport import ByteClient

MAX_REDIRECTS = 10
MOST_DRAINED = 64 << 10


@dataclass(slots=True, kw_only=True)
class _Ahead:
    """What was asked for behind a body that is still read."""

    file: RemoteFile
    span: Block
    url: str
    moves: int = 0


class Body:
    """The bytes of one response, read in order by one thread; perhaps of further ones behind it.

    Attributes:
        file: what they are of.
        takes_others: other files of the endpoint may be asked for behind it, where anything may.
    """

    def __init__(
        self,
        response: wire.Response,
        length: int,
        client: ByteClient,
        file: RemoteFile,
        source: Source | None,
        check: Callable[[wire.Response, RemoteFile, Block], int],
        *,
        takes_others: bool = False,
    ) -> None:
        self.file = file
        self.takes_others = takes_others
        self._response = response
        self._source = source
        self._client = client
        self._check = check
        self._detached = detached_body(response)
        self._chunks: Iterator[bytes] = iter(()) if self._detached else response.iter_raw()
        self._rest = memoryview(b"")
        self._left = length
        self._ahead: deque[_Ahead] = deque()
        self._proven = False  # this connection answered what was sent ahead before
        self._error: TransferError | None = None

    @property
    def detached(self) -> bool:
        """True where the bytes are read off the connection's own socket."""
        return self._detached is not None

    def fill(self, into: memoryview) -> int:
        """Read up to `len(into)` bytes; fewer only where the line is slow or broke, never 0.

        Raises:
            TransferError: the line broke, or the body is shorter than the range; what came before was returned
                by an earlier call.
        """
        if self._detached is not None:
            try:
                done = self._detached.fill(into)
            except BodyEnded as error:
                raise self._short() from error
            except OSError as error:
                raise TransferError(wire.failure_from(error)) from error
        else:
            done = self._fill_from_chunks(into)
        if done == 0:
            raise self._short()
        self._left -= done
        return done

    def abort(self) -> None:
        """Make a read under way in another thread fail at once."""
        shut_down_response(self._response)

    @property
    def can_ask_ahead(self) -> bool:
        """True where another range may be asked for on this connection before the body ends."""
        return self._detached is not None and self._client.asks_ahead and self._detached.stream.can_ask_ahead

    def ask_ahead(self, span: Block, file: RemoteFile | None = None, url: str | None = None) -> None:
        """Ask for another range on this connection, behind all that was asked for; `advance` goes on to it.

        Args:
            span: the range.
            file: another file's, where it is not of the first one and `takes_others`.
            url: where that file lies, as `ByteClient.url_of` says.

        Raises:
            TransferError: the line broke.
        """
        self._ask(_Ahead(file=file or self.file, span=span, url=url or ""))

    def _ask(self, ahead: _Ahead) -> None:
        assert self._detached is not None
        self._client.count()
        self._ahead.append(ahead)
        etag = None if self._source is None else self._source.etag
        try:
            target = wire.target_of(ahead.url) if ahead.url else None
            self._detached.stream.ask_ahead(range_header(ahead.span), etag, wire.timeouts().write, target)
        except Exception as error:
            raise TransferError(wire.failure_from(error)) from error

    def advance(self) -> bool:
        """Go on to the next body asked ahead, once this one was read to its end; `file` says what it is of.

        Returns:
            False where no more will come on this connection.

        Raises:
            TransferError: as `ByteClient.open`.
        """
        assert self._detached is not None
        stream, began = self._detached.stream, time.monotonic()
        try:
            while True:
                head = stream.advance(wire.timeouts().read)
                if head is None:
                    self._client.note_lost_ahead(proven=self._proven)
                    return False
                ahead = self._ahead.popleft()
                response = httpx.Response(head.status, headers=head.headers, request=self._response.request)
                if not 300 <= head.status < 400:
                    break
                if not self._moved(ahead, response, stream.body):
                    self._client.note_lost_ahead(proven=self._proven)
                    return False
            self._left = self._check(response, ahead.file, ahead.span)
            self._detached = stream.body
            if self._detached is None:
                raise httpx.RemoteProtocolError("the answer to a request sent ahead has another form than the first")
        except Exception as error:
            self._client.note_lost_ahead(proven=self._proven)
            if isinstance(error, TransferError):
                raise
            failure = wire.failure_from(error)
            if failure.reason is Reason.RESET:
                return False
            raise TransferError(failure) from error
        self.file, self._proven = ahead.file, True
        self._client.note_ahead(None if ahead.url else time.monotonic() - began)
        return True

    def _moved(self, ahead: _Ahead, response: wire.Response, body: DetachedBody | None) -> bool:
        """Ask for a file of the endpoint's where its answer says that it lies; False where that is elsewhere."""
        location = response.headers.get("location")
        if not ahead.url or body is None or body.left > MOST_DRAINED or location is None:
            return False
        target = self._client.moved(ahead.url, location)
        if target is None or ahead.moves == MAX_REDIRECTS:
            return False
        self._detached = body
        spare = memoryview(bytearray(body.left))
        while body.left:
            body.fill(spare)
        self._ask(_Ahead(file=ahead.file, span=ahead.span, url=target, moves=ahead.moves + 1))
        return True

    def finish(self) -> None:
        """Check that nothing follows, and leave the connection usable for the next request.

        Raises:
            TransferError: the body is longer than the range that was asked for.
        """
        if self._detached is not None:
            self._chunks = self._response.iter_raw()  # the parser's end of the message
        if self._rest or self._next_chunk():
            raise TransferError(Failure(reason=Reason.LONG_BODY, detail="more bytes than the range holds"))

    def _fill_from_chunks(self, into: memoryview) -> int:
        if self._error is not None:
            raise self._error
        done, until = 0, time.monotonic() + PATIENCE_S
        while done < len(into):
            if not self._rest:
                if done and time.monotonic() > until:
                    break
                try:
                    self._rest = memoryview(self._next_chunk())
                except TransferError as error:
                    if not done:
                        raise
                    self._error = error
                if not self._rest:
                    break
            count = min(len(into) - done, len(self._rest))
            into[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        return done

    def _short(self) -> TransferError:
        return TransferError(Failure(reason=Reason.SHORT_BODY, detail=f"the body ended {self._left} bytes early"))

    def _next_chunk(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        try:
            return next((chunk for chunk in self._chunks if chunk), b"")
        except Exception as error:
            raise TransferError(wire.failure_from(error)) from error


def shut_down_response(response: wire.Response) -> None:
    """Make a read of it under way in another thread fail at once."""
    stream = response.extensions.get("network_stream")
    raw = stream.get_extra_info("socket") if stream is not None else None
    if raw is not None:
        shut_down(raw)


def range_header(span: Block) -> str:
    """Return a range as requests name it."""
    return f"bytes={span.start}-{span.stop - 1}"
