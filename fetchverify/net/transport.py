"""Bytes of one range, strictly checked, read into the caller's buffers; which range and what then is left to `engine`.

Everything here blocks and runs in worker threads.
"""

from __future__ import annotations

import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.retry import Failure, Reason
from fetchverify.net import wire
from fetchverify.net.body import MAX_REDIRECTS, MOST_DRAINED, Body, range_header, shut_down_response
from fetchverify.net.checks import (
    Source,
    TransferError,
    check_identity,
    check_same_etag,
    checked_length,
    expect_success,
)
from fetchverify.net.detach import DETACH, DirectTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FAR_S = 0.005
# So many requests in a row that were sent ahead and never answered: this server, or what is before it, does not do it.
_MOST_LOST_AHEAD = 3


class Locator(Protocol):
    """Finds where files lie that no Hub's `resolve` names; methods run in worker threads."""

    def locate(self, file: RemoteFile, client: ByteClient) -> Source:
        """Return a fresh address of the file.

        Raises:
            TransferError: there is none, or none now.
        """

    def hint(self, failure: Failure) -> str:
        """Return what to do where access is denied."""


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
            shut_down_response(response)

    def locate(self, manifest: Manifest, file: RemoteFile) -> Source:
        """Return where `file` lies, after its headers were held against the tree's promise.

        Raises:
            TransferError: with `Reason.CONTRADICTED` where the headers name another digest, size or commit.
        """
        if self._locator is not None:
            return self._locator.locate(file, self)
        url = self.url_of(manifest, file)
        with self._follow("HEAD", url, {}, manifest, file) as (response, at):
            expect_success(response, at, (200, 206))
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
        headers = {} if span is None else {"Range": range_header(span)}
        if source is not None and source.etag is not None and span is not None:
            headers["If-Range"] = source.etag
        if source is None:
            opened = self._follow("GET", self.url_of(manifest, file), headers, manifest, file)
        else:
            opened = self._follow("GET", source.url, headers, manifest, file, at=source)
        with opened as (response, at):

            def check(response: wire.Response, file: RemoteFile, span: Block | None, at: Source = at) -> int:
                if at.from_hub and response.status_code < 400:
                    check_identity(response, manifest, file)
                expect_success(response, at, (200, 206))
                check_same_etag(response, source)
                return checked_length(response, file, span)

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
        for _ in range(MAX_REDIRECTS):
            with self._send(method, at, headers) as response:
                if at.from_hub and response.status_code < 400:
                    check_identity(response, manifest, file)
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
        raise TransferError(Failure(reason=Reason.REDIRECT_LOOP, detail=f"more than {MAX_REDIRECTS} redirects"))

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
    if response.request.method != "HEAD" and not (length.isdigit() and int(length) <= MOST_DRAINED):
        return
    try:
        response.read()
    except Exception as error:
        raise TransferError(wire.failure_from(error)) from error


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
