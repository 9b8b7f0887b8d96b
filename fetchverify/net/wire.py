"""What metadata and byte requests share: the hub's httpx, addresses, headers, who may see the token, errors translated.

The one module that names httpx. huggingface_hub 1.x brings httpx, 2.x httpx2; both export theirs.
"""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urlsplit

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify.core.manifest import RepoKind, RepoRef
from fetchverify.core.retry import Failure, Reason, parse_wait
from fetchverify.errors import UsageError

if TYPE_CHECKING:
    Response: TypeAlias = httpx.Response

_PREFIXES: dict[RepoKind, str] = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_NO_STORE_PARAMS = "-_.~!$&'()*+,;=:@"  # what a path segment may hold unquoted (RFC 3986 pchar)


class BadRedirectError(Exception):
    """A redirect that must not be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A Hub or mirror and the token that it alone may see.

    Attributes:
        url: without a trailing slash.
        token: None asks as nobody. Never shown.
    """

    url: str
    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, url: str | None = None, token: str | None = None) -> Endpoint:
        """Return the endpoint as the hub client would choose it: arguments, then `HF_ENDPOINT` and the stored token.

        Args:
            url: None asks the environment.
            token: None asks the environment and the token file; an empty string is nobody.

        Raises:
            UsageError: the address is none.
        """
        from huggingface_hub import constants, get_token

        address = (url or constants.ENDPOINT).rstrip("/")
        if "://" not in address:
            address = "https://" + address
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(
                f"`{redact(address)}` is not the address of a Hub",
                hint="for example `--endpoint https://huggingface.co`",
            )
        return cls(url=address, token=(get_token() if token is None else token) or None)

    @property
    def host(self) -> str:
        """Host, with the port where one is given; for people."""
        return host_of(self.url)


def host_of(url: str) -> str:
    """Return host and explicit port of a URL, without user or password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def redact(url: str) -> str:
    """Return the URL without user, password, query and fragment: what may be shown and logged."""
    parts = urlsplit(url)
    return parts._replace(netloc=host_of(url), query="", fragment="").geturl()


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: what decides who may see the token."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def api_url(endpoint: Endpoint, ref: RepoRef, rest: str = "") -> str:
    """Return an address of the repo's API; `rest` is quoted already."""
    return f"{endpoint.url}/api/{ref.kind}s/{quote(ref.repo_id, safe='/')}{rest}"


def resolve_url(endpoint: Endpoint, ref: RepoRef, revision: str, path: str) -> str:
    """Return where the endpoint serves a file, or redirects to it."""
    prefix = _PREFIXES[ref.kind] + quote(ref.repo_id, safe="/")
    return f"{endpoint.url}/{prefix}/resolve/{quote(revision, safe='')}/{quote(path, safe='/' + _NO_STORE_PARAMS)}"


def base_headers(endpoint: Endpoint | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the headers of every request; with an `endpoint`, those that only it may see as well."""
    from fetchverify import __version__

    headers = {
        "User-Agent": f"fetchverify/{__version__}; python/{platform.python_version()}",
        "Accept-Encoding": "identity",
    }
    if endpoint is not None:
        headers["X-HF-Download-Counter"] = "1"
        if endpoint.token is not None:
            headers["Authorization"] = f"Bearer {endpoint.token}"
    return headers | dict(extra or {})


def timeouts(read_s: float | None = None) -> httpx.Timeout:
    """Return the deadlines of one request, as the hub's environment variables set them."""
    from huggingface_hub import constants

    read_s = read_s or float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    return httpx.Timeout(read_s, connect=float(constants.HF_HUB_ETAG_TIMEOUT), pool=None)


def ssl_context() -> ssl.SSLContext:
    """Return the trust of this machine: `SSL_CERT_FILE` and `SSL_CERT_DIR` where set, else what httpx brings."""
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"), capath=os.environ.get("SSL_CERT_DIR"))
    return httpx.create_ssl_context()


def new_async_client(connections: int) -> httpx.AsyncClient:
    """Return a client for metadata, with the shorter deadlines of metadata."""
    from huggingface_hub import constants

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    deadline = timeouts(float(constants.HF_HUB_ETAG_TIMEOUT))
    return httpx.AsyncClient(verify=ssl_context(), limits=limits, timeout=deadline, follow_redirects=False)


def decide_redirect(url: str, location: str, endpoint: Endpoint) -> tuple[str, bool]:
    """Return where a redirect leads, and whether that is the endpoint's own origin, which may see the token.

    Raises:
        BadRedirectError: no http(s) address, or a step down from https to http.
    """
    try:
        target = str(httpx.URL(url).join(location))
        parts = urlsplit(target)
        origin_of(target)
    except (httpx.InvalidURL, ValueError) as error:
        raise BadRedirectError("a redirect to what is no address") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRedirectError(f"a redirect to a `{parts.scheme[:20]}` address")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise BadRedirectError("a redirect from https to http")
    return target, origin_of(target) == origin_of(endpoint.url)


def failure_from(error: Exception, *, host: str | None = None) -> Failure:
    """Translate what httpx, a socket or TLS raised."""
    detail = str(error) or type(error).__name__
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        reason = Reason.TLS
    else:
        reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.PROTOCOL)
    return Failure(reason=reason, detail=detail[:300], host=host)


_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (httpx.ProxyError, Reason.PROXY),
    (httpx.ConnectTimeout, Reason.CONNECT),
    (httpx.TimeoutException, Reason.TIMEOUT),
    (httpx.ConnectError, Reason.CONNECT),
    (httpx.NetworkError, Reason.RESET),
    (httpx.RemoteProtocolError, Reason.RESET),
    (TimeoutError, Reason.TIMEOUT),
    (OSError, Reason.RESET),
)


def failure_from_status(response: Response, *, signed: bool = False) -> Failure:
    """Translate an error status; `signed` says that the address carried a signature, which may have expired."""
    status, headers = response.status_code, response.headers
    code = headers.get("x-error-code", "")
    if signed and status in (400, 401, 403, 404, 410):
        # CDNs answer some expired or foreign signatures with 400 or 404; the Hub itself gave us this address.
        reason, detail = Reason.EXPIRED, "the signed address is not accepted any more"
    elif status in (401, 403):
        reason, detail = Reason.DENIED, _DENIALS.get(code, "access denied")
    elif status in (404, 410):
        reason, detail = Reason.ABSENT, _DENIALS.get(code, "not found")
    elif status in (408, 429) or status >= 500:
        reason, detail = Reason.BAD_STATUS, _PHRASES.get(status, "server error")
    else:
        reason, detail = Reason.BAD_STATUS, "the request was refused"
    return Failure(
        reason=reason,
        detail=f"{detail} (HTTP {status})",
        status=status,
        retry_after_s=parse_wait(headers, now_s=time.time()),
        request_id=(headers.get("x-request-id") or headers.get("x-amz-cf-id") or "")[:80] or None,
        host=response.url.host,
    )


_DENIALS = {
    "GatedRepo": "the repo is gated: its licence must be accepted with the account of the token",
    "RepoNotFound": "no such repo, or it is private and the token may not see it",
    "RevisionNotFound": "no such revision",
    "EntryNotFound": "no such file at this commit",
}
_PHRASES = {408: "request timeout", 429: "too many requests", 500: "internal server error", 503: "unavailable"}
