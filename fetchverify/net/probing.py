"""Measures the line to an endpoint: how it is reached, what it honours, how much comes; the verdict is left to `core`.

Everything here blocks and runs in worker threads.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from urllib.parse import urlsplit

from fetchverify.core.blocks import Block, MiB
from fetchverify.core.lineprobe import Reach, Throughput
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.retry import Quota, Reason, parse_quotas
from fetchverify.errors import NetworkError
from fetchverify.net import wire
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.transport import ByteClient

_SPAN = 16 * MiB
_PIECE = 256 << 10
_CONNECT_S = 10.0
_TO_SPEED_S = 1.0
_AFTER_A_FAILURE_S = 0.2


def reach(endpoint: wire.Endpoint) -> Reach:
    """Return how the endpoint is reached: its name looked up, a connection made, TLS agreed on, each timed.

    Raises:
        NetworkError: a step failed; it names the step.
    """
    scheme, host, port = wire.origin_of(endpoint.url)
    proxy = _proxy(scheme, host)
    if proxy is not None:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, port = parts.hostname or host, parts.port or {"https": 443}.get(parts.scheme, 80)
    began = time.perf_counter()
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _unreachable(endpoint, "its name cannot be resolved", error) from error
    resolved = time.perf_counter()
    try:
        # As clients do it: one address after the other.
        sock = socket.create_connection((host, port), _CONNECT_S)
    except OSError as error:
        raise _unreachable(endpoint, "no connection could be made", error) from error
    connected = time.perf_counter()
    version = tls_s = None
    with contextlib.closing(sock):
        if scheme == "https" and proxy is None:
            try:
                with wire.ssl_context().wrap_socket(sock, server_hostname=host) as secure:
                    version, tls_s = secure.version(), time.perf_counter() - connected
            except (OSError, ssl.SSLError) as error:
                raise _unreachable(endpoint, "TLS could not be agreed on", error) from error
    return Reach(
        host=endpoint.host,
        addresses=tuple(dict.fromkeys(str(info[4][0]) for info in infos)),
        proxy=None if proxy is None else wire.host_of(proxy),
        resolve_s=resolved - began,
        connect_s=connected - resolved,
        tls=version,
        tls_s=tls_s,
    )


def _proxy(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(scheme) or proxies.get("all")


def _unreachable(endpoint: wire.Endpoint, what: str, error: Exception) -> NetworkError:
    failure = wire.failure_from(error)
    return NetworkError(
        f"`{endpoint.host}` is not reached: {what}: {failure.detail}",
        hint="is a proxy (`HTTPS_PROXY`) or another `--endpoint` needed?",
    )


class Answers:
    """What the endpoint says about one file: headers, ranges, quotas, round trips.

    Args:
        endpoint: that is asked.
        manifest: names repo and commit.
        file: whose headers are looked at.
    """

    def __init__(self, endpoint: wire.Endpoint, manifest: Manifest, file: RemoteFile) -> None:
        self._endpoint = endpoint
        self._file = file
        self._url = wire.resolve_url(endpoint, manifest.ref, manifest.commit, file.path)
        self._client = wire.new_client()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def lacks(self) -> tuple[tuple[str, ...], tuple[Quota, ...]]:
        """Return which headers of a full Hub are missing, and the quotas that are left.

        Raises:
            TransferError: the request failed.

        Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
        """
        headers = self._ask("HEAD", self._url, {}).headers
        wanted = ["x-repo-commit", "x-linked-etag", "x-linked-size"]
        if not self._file.is_lfs:
            wanted = ["x-repo-commit", "etag"]
        missing = tuple(f"the header `{name.title()}`" for name in wanted if name not in headers)
        return missing, parse_quotas(headers.get("ratelimit", ""))

    def round_trips(self, count: int) -> tuple[float, ...]:
        """Return how long so many requests took over one kept connection, in seconds.

        Raises:
            TransferError: a request failed.
        """
        took = []
        for _ in range(count):
            began = time.perf_counter()
            self._ask("HEAD", self._url, {})
            took.append(time.perf_counter() - began)
        return tuple(took)

    def heeds_if_range(self, source: Source) -> bool:
        """Return whether a range of another version is refused, as it should.

        Raises:
            TransferError: the request failed.

        Source: RFC 9110 §13.1.5.
        """
        headers = {"Range": "bytes=0-0", "If-Range": '"another-version"'}
        return self._ask("GET", source.url, headers, ours=source.from_hub).status_code == 200

    def _ask(self, method: str, url: str, headers: dict[str, str], *, ours: bool = True) -> wire.Response:
        """Return the head of an answer; its body is not read."""
        base = wire.base_headers(self._endpoint if ours else None)
        try:
            request = self._client.build_request(method, url, headers=base | headers)
            response = self._client.send(request, stream=True)
            response.close()
        except Exception as error:
            raise TransferError(wire.failure_from(error)) from error
        if response.status_code >= 400:
            raise TransferError(wire.failure_from_status(response, signed=not ours))
        return response


def honours_ranges(client: ByteClient, manifest: Manifest, file: RemoteFile, source: Source) -> bool:
    """Return whether a range is answered with that range, neither with the whole file nor with another one.

    Raises:
        TransferError: the request failed in another way.
    """
    last = Block(file.size - 1, file.size)
    try:
        with client.open(manifest, file, source, last) as body:
            body.fill(memoryview(bytearray(1)))
    except TransferError as error:
        if error.failure.reason in (Reason.RANGE_IGNORED, Reason.WRONG_RANGE, Reason.WRONG_LENGTH):
            return False
        raise
    return True


class Stopwatch:
    """Reads ranges of one file over several connections for a while, and counts.

    Args:
        client: is aborted at the end, and of no use afterwards.
        manifest: names repo and commit.
        file: is read in pieces, over and over where it is small.
        source: where it lies.
    """

    def __init__(self, client: ByteClient, manifest: Manifest, file: RemoteFile, source: Source) -> None:
        self._client, self._manifest, self._file, self._source = client, manifest, file, source
        self._spans = [Block(at, min(at + _SPAN, file.size)) for at in range(0, file.size, _SPAN)]
        self._lock = threading.Lock()
        self._next = self._received = self._drops = self._refused = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the measuring now; may be called from any thread."""
        self._stopped.set()
        self._client.abort()

    def run(self, connections: int, seconds: float) -> Throughput:
        """Return what came within so many seconds, not counting those until the connections had come to speed."""
        threads = [threading.Thread(target=self._read, daemon=True) for _ in range(connections)]
        for thread in threads:
            thread.start()
        self._stopped.wait(min(_TO_SPEED_S, seconds / 3))
        before, began = self._received, time.perf_counter()
        self._stopped.wait(seconds - min(_TO_SPEED_S, seconds / 3))
        after, ended = self._received, time.perf_counter()
        self.stop()
        for thread in threads:
            thread.join()
        return Throughput(
            connections=connections,
            received=after - before,
            seconds=ended - began,
            drops=self._drops,
            refused=self._refused,
        )

    def _read(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        while not self._stopped.is_set():
            with self._lock:
                span = self._spans[self._next % len(self._spans)]
                self._next += 1
            try:
                with self._client.open(self._manifest, self._file, self._source, span) as body:
                    left = len(span)
                    while left:
                        count = body.fill(buffer[: min(_PIECE, left)])
                        left -= count
                        with self._lock:
                            self._received += count
                    body.finish()
            except TransferError as error:
                if self._stopped.is_set():
                    return
                with self._lock:
                    self._count_failure(error)
                self._stopped.wait(_AFTER_A_FAILURE_S)

    def _count_failure(self, error: TransferError) -> None:
        if error.failure.status in (429, 503):
            self._refused += 1
        else:
            self._drops += 1
