"""Bytes of one range, strictly checked, read into the caller's buffers; which range and what then is left to `engine`.

Everything here blocks and runs in worker threads.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.retry import Failure, Reason
from fetchverify.net import wire
from fetchverify.net.detach import (
    DETACH,
    PATIENCE_S,
    BodyEnded,
    DetachedBody,
    DirectTransport,
    detached_body,
    shut_down,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_REDIRECTS = 10
_FAR_S = 0.005
_MOST_DRAINED = 64 << 10
# So many requests in a row that were sent ahead and never answered: this server, or what is before it, does not do it.
_MOST_LOST_AHEAD = 3
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SHA1 = re.compile(r"[0-9a-f]{40}\Z")


class TransferError(Exception):
    """One request failed; `failure` says how, for `core.retry` to judge. Never leaves `engine`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass(slots=True, kw_only=True)
class Source:
    """Where the bytes of one file can be asked for.

    Attributes:
        url: final address; may be signed, so it never reaches a message.
        from_hub: the address is the endpoint's own: its ETag is the file's identity, and it may see the token.
        etag: the strong ETag of the first range that came from here; every later range must carry the same.
        headers: what this address wants to see besides; it alone.
    """

    url: str
    from_hub: bool
    etag: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Locator(Protocol):
    """Finds where files lie that no Hub's `resolve` names; methods run in worker threads."""

    def locate(self, file: RemoteFile, client: ByteClient) -> Source:
        """Return a fresh address of the file.

        Raises:
            TransferError: there is none, or none now.
        """

    def hint(self, failure: Failure) -> str:
        """Return what to do where access is denied."""


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
        _shut_down(self._response)

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
            self._detached.stream.ask_ahead(_range(ahead.span), etag, wire.timeouts().write, target)
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
        if not ahead.url or body is None or body.left > _MOST_DRAINED or location is None:
            return False
        target = self._client.moved(ahead.url, location)
        if target is None or ahead.moves == _MAX_REDIRECTS:
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


class ByteClient:
    """Asks one endpoint (and where it redirects to) for ranges of files; thread-safe.

    Args:
        endpoint: the trusted Hub or mirror; the token is sent to its origin alone.
        connections: how many requests may be under way at once.
        count: called once a request, for the report.
        locator: finds every file's address in place of the endpoint, which then sees nothing but what it serves.

    Attributes:
        count: called once a request.
        round_trip_s: the shortest time from a sent request to its head so far; 0 before the first.
    """

    def __init__(
        self,
        endpoint: wire.Endpoint,
        *,
        connections: int,
        count: Callable[[], object],
        locator: Locator | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._locator = locator
        self.count = count
        trust = wire.ssl_context()
        self._direct = DirectTransport(trust)
        self._client = _new_client(connections, trust, self._direct)
        self._stopped = threading.Event()
        self._open: set[wire.Response] = set()
        self._lock = threading.Lock()
        self.round_trip_s = 0.0
        self._silence_s: float | None = None
        self._lost_ahead = 0

    @property
    def is_far(self) -> bool:
        """True where a round trip is worth hiding."""
        return self.round_trip_s > _FAR_S

    @property
    def silence_s(self) -> float:
        """Seconds for which a connection is silent between two ranges; a round trip where none is asked for ahead."""
        return self.round_trip_s if self._silence_s is None or not self.asks_ahead else self._silence_s

    @property
    def asks_ahead(self) -> bool:
        """True where this server answers what is sent while it still answers the request before."""
        return self._lost_ahead < _MOST_LOST_AHEAD

    def note_ahead(self, silence_s: float | None) -> None:
        """Note that what was asked ahead was answered.

        Args:
            silence_s: how long the line was silent before; None where that says nothing of ranges.
        """
        self._lost_ahead = 0
        if silence_s is not None:
            before = silence_s if self._silence_s is None else self._silence_s
            self._silence_s = before + (silence_s - before) / 8

    def note_lost_ahead(self, *, proven: bool) -> None:
        """Note that what was asked ahead was not answered.

        Args:
            proven: the connection answered others before: it may close at any time, and addresses expire.
        """
        self._lost_ahead += not proven

    def url_of(self, manifest: Manifest, file: RemoteFile) -> str:
        """Return where the endpoint has a file, or says where it lies."""
        return wire.resolve_url(self._endpoint, manifest.ref, manifest.commit, file.path)

    def moved(self, url: str, location: str) -> str | None:
        """Return where a redirect leads to; None where that is another host, or none of our business."""
        try:
            target, from_hub = wire.decide_redirect(url, location, self._endpoint)
        except wire.BadRedirectError:
            return None
        return target if from_hub else None

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def abort(self) -> None:
        """Make whatever is under way fail at once; no request is sent after this."""
        self._stopped.set()
        self._direct.abort()
        with self._lock:  # those through a proxy; one that waits for its head there ends at its deadline
            responses = tuple(self._open)
        for response in responses:
            _shut_down(response)

    def locate(self, manifest: Manifest, file: RemoteFile) -> Source:
        """Return where `file` lies, after its headers were held against the tree's promise.

        Raises:
            TransferError: with `Reason.CONTRADICTED` where the headers name another digest, size or commit.
        """
        if self._locator is not None:
            return self._locator.locate(file, self)
        url = self.url_of(manifest, file)
        with self._follow("HEAD", url, {}, manifest, file) as (response, at):
            _expect_success(response, at, (200, 206))
            return at

    @contextmanager
    def open(self, manifest: Manifest, file: RemoteFile, source: Source | None, span: Block | None) -> Iterator[Body]:
        """Ask for the bytes of `span` (the whole file in one stream where None) and yield its body.

        Args:
            manifest: names repo and commit.
            file: what is asked for; its size and digest are checked against every header that states them.
            source: as `locate` found it; None asks the endpoint itself and follows its redirects.
            span: a non-empty range of the file.

        Raises:
            TransferError: status, Content-Range, length, coding or identity are not what was asked for.

        Source: RFC 9110 §14.2, §15.3.7.
        """
        if source is None and self._locator is not None:
            source = self._locator.locate(file, self)
        headers = {} if span is None else {"Range": _range(span)}
        if source is not None and source.etag is not None and span is not None:
            headers["If-Range"] = source.etag
        if source is None:
            opened = self._follow("GET", self.url_of(manifest, file), headers, manifest, file)
        else:
            opened = self._follow("GET", source.url, headers, manifest, file, at=source)
        with opened as (response, at):

            def check(response: wire.Response, file: RemoteFile, span: Block | None, at: Source = at) -> int:
                if at.from_hub and response.status_code < 400:
                    _check_identity(response, manifest, file)
                _expect_success(response, at, (200, 206))
                _check_same_etag(response, source)
                return _checked_length(response, file, span)

            length = check(response, file, span)
            others = source is None and at.from_hub
            yield Body(response, length, self, file, source, check, takes_others=others)

    @contextmanager
    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        manifest: Manifest,
        file: RemoteFile,
        at: Source | None = None,
    ) -> Iterator[tuple[wire.Response, Source]]:
        """Send, follow redirects by hand, check identity at each of the Hub's own answers."""
        at = at or Source(url=url, from_hub=True)
        for _ in range(_MAX_REDIRECTS):
            with self._send(method, at, headers) as response:
                if at.from_hub and response.status_code < 400:
                    _check_identity(response, manifest, file)
                location = response.headers.get("location")
                if method == "HEAD" or 300 <= response.status_code < 400:
                    _drain(response)
                if response.status_code not in (301, 302, 303, 307, 308) or location is None:
                    yield response, at
                    return
            try:
                target, from_hub = wire.decide_redirect(at.url, location, self._endpoint)
            except wire.BadRedirectError as error:
                raise TransferError(Failure(reason=Reason.BAD_REDIRECT, detail=str(error))) from error
            stays = wire.origin_of(target) == wire.origin_of(at.url)
            at = Source(url=target, from_hub=from_hub and self._locator is None, headers=at.headers if stays else {})
            if method == "HEAD" and not from_hub:
                # The CDN's answer to HEAD tells nothing that the promise does not; its address is all we want.
                yield response, at
                return
        raise TransferError(Failure(reason=Reason.REDIRECT_LOOP, detail=f"more than {_MAX_REDIRECTS} redirects"))

    @contextmanager
    def _send(self, method: str, at: Source, headers: Mapping[str, str]) -> Iterator[wire.Response]:
        request = self._client.build_request(
            method,
            at.url,
            extensions={DETACH: method == "GET"},
            headers={
                **wire.base_headers(self._endpoint if at.from_hub else None),
                **at.headers,
                "Accept-Encoding": "identity",
                **headers,
            },
        )
        with self._sent(request) as response:
            yield response

    @contextmanager
    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Iterator[wire.Response]:
        """Send a body and yield the answer, unread, whatever its status; redirects are not followed.

        Raises:
            TransferError: the line broke.
        """
        headers = {**wire.base_headers(None), **headers}
        with self._sent(self._client.build_request("POST", url, headers=headers, content=body)) as response:
            yield response

    @contextmanager
    def _sent(self, request: httpx.Request) -> Iterator[wire.Response]:
        if self._stopped.is_set():
            raise TransferError(Failure(reason=Reason.RESET, detail="stopped"))
        request.extensions["trace"] = waiting = _Waiting()
        self.count()
        try:
            response = self._client.send(request, stream=True)
        except Exception as error:
            raise TransferError(wire.failure_from(error)) from error
        with self._lock:
            if waiting.took_s:
                self.round_trip_s = min(self.round_trip_s or waiting.took_s, waiting.took_s)
                self._direct.way.far = self.is_far
            self._open.add(response)
        try:
            yield response
        finally:
            with self._lock:
                self._open.discard(response)
            response.close()


class _Waiting:
    """How long one request waited for its head: connecting and TLS cost several round trips, and only the first one.

    Source: httpcore's `trace` extension.
    """

    def __init__(self) -> None:
        self.took_s = 0.0
        self._began = 0.0

    def __call__(self, name: str, info: object) -> None:
        """Take one of httpcore's events."""
        if name.endswith("receive_response_headers.started"):
            self._began = time.monotonic()
        elif name.endswith("receive_response_headers.complete"):
            self.took_s = time.monotonic() - self._began


def _drain(response: wire.Response) -> None:
    """Read what little comes with a redirect: else its connection to the Hub would have to be closed, each time."""
    length = response.headers.get("content-length", "0")
    if response.request.method != "HEAD" and not (length.isdigit() and int(length) <= _MOST_DRAINED):
        return
    try:
        response.read()
    except Exception as error:
        raise TransferError(wire.failure_from(error)) from error


def _shut_down(response: wire.Response) -> None:
    stream = response.extensions.get("network_stream")
    raw = stream.get_extra_info("socket") if stream is not None else None
    if raw is not None:
        shut_down(raw)


def _new_client(connections: int, trust: ssl.SSLContext, direct: DirectTransport) -> httpx.Client:
    """Return a client that detaches bodies where it connects directly; proxies of the environment are httpx's own."""
    # `all://` has the lowest rank: a proxy for http or https, or a host that wants none, goes before it. A proxy
    # for everything has that very key, and must not lose it.
    mounts = {} if "all" in urllib.request.getproxies() else {"all://": direct}
    try:
        return httpx.Client(
            verify=trust,
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30
            ),
            timeout=wire.timeouts(),
            follow_redirects=False,
            cookies=wire.no_cookies(),
            mounts=mounts,
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise wire.bad_proxy(error) from error


def _range(span: Block) -> str:
    return f"bytes={span.start}-{span.stop - 1}"


def _expect_success(response: wire.Response, at: Source, good: tuple[int, ...]) -> None:
    if response.status_code < 300 and response.status_code not in good:
        raise TransferError(Failure(reason=Reason.PROTOCOL, status=response.status_code, detail="unexpected status"))
    if response.status_code >= 400:
        raise TransferError(wire.failure_from_status(response, signed=not at.from_hub))


def _check_same_etag(response: wire.Response, source: Source | None) -> None:
    """Remember the first strong ETag of a source; a later one that differs ends this response."""
    etag = response.headers.get("etag", "")
    if source is None or not etag.startswith('"'):
        return
    if source.etag is None:
        source.etag = etag
    elif source.etag != etag:
        raise TransferError(Failure(reason=Reason.REMOTE_CHANGED, detail="the file's ETag changed between two ranges"))


def _check_identity(response: wire.Response, manifest: Manifest, file: RemoteFile) -> None:
    """Hold what the Hub says in its headers against what its tree said.

    Mirrors drop these headers, so an absent one says nothing; a present one that differs ends the file.
    Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
    """
    told: list[str] = []
    commit = response.headers.get("x-repo-commit")
    if commit is not None and commit != manifest.commit:
        told.append(f"commit `{commit[:40]}`, not `{manifest.commit}`")
    linked = response.headers.get("x-linked-etag")
    etag = linked or (response.headers.get("etag") if response.status_code < 300 else None)
    if etag is not None:
        plain = etag.removeprefix("W/").strip('"')
        known = _SHA256 if file.digest.algo == "sha256" else _SHA1
        # A sha1 where the tree promised sha256 is the pointer's git id or an opaque tag: no contradiction.
        if known.match(plain) and plain != file.digest.hex:
            told.append(f"{file.digest.algo} `{plain}`, not `{file.digest.hex}`")
    size = response.headers.get("x-linked-size")
    if size is not None and size != str(file.size):
        told.append(f"{size[:20]} bytes, not {file.size}")
    if told:
        detail = "the download's headers contradict the tree: " + "; ".join(told)
        raise TransferError(Failure(reason=Reason.CONTRADICTED, detail=detail))


def _checked_length(response: wire.Response, file: RemoteFile, span: Block | None) -> int:
    """Return how many bytes the body must hold, or raise what is wrong with the head."""
    headers = response.headers
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise TransferError(Failure(reason=Reason.ENCODED, detail=f"the body is `{coding}`, identity was asked for"))
    length = headers.get("content-length")
    wanted = file.size if span is None else len(span)
    if response.status_code == 200:
        if headers.get("content-type", "").startswith("text/html") and length != str(file.size):
            detail = "the server sent an HTML page instead of the file"
            raise TransferError(Failure(reason=Reason.NOT_THE_FILE, detail=detail))
        if length is not None and length != str(file.size):
            detail = f"the server announces {length} bytes, the repo promises {file.size}"
            raise TransferError(Failure(reason=Reason.WRONG_LENGTH, detail=detail))
        if span is not None and len(span) != file.size:
            raise TransferError(Failure(reason=Reason.RANGE_IGNORED, detail="200 to a range request"))
        return wanted
    assert span is not None
    match = _CONTENT_RANGE.match(headers.get("content-range", ""))
    if (
        match is None
        or (int(match[1]), int(match[2]) + 1) != (span.start, span.stop)
        or match[3] not in ("*", str(file.size))
    ):
        detail = (
            f"asked for bytes {span.start}-{span.stop - 1}/{file.size}, got `{headers.get('content-range', '')[:80]}`"
        )
        raise TransferError(Failure(reason=Reason.WRONG_RANGE, detail=detail))
    if length is not None and length != str(wanted):
        detail = f"the server announces {length} bytes for a range of {wanted}"
        raise TransferError(Failure(reason=Reason.WRONG_LENGTH, detail=detail))
    return wanted
