"""What metadata and byte requests share: the hub's httpx, addresses, headers, who may see the token, errors translated.

huggingface_hub 1.x brings httpx, 2.x httpx2; both export theirs, and it is imported from nowhere else.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify.core.manifest import RepoKind, RepoRef
from fetchverify.core.paths import shown
from fetchverify.core.retry import Failure, Reason, parse_wait
from fetchverify.errors import UsageError

if TYPE_CHECKING:
    Response: TypeAlias = httpx.Response

_PREFIXES: dict[RepoKind, str] = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_PCHAR = "-_.~!$&'()*+,;=:@"  # what a path segment may hold unquoted (RFC 3986)
_TARGET = re.compile(r"/[!-~]*\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Signed addresses are below 4 KiB; servers commonly stop at 8 (nginx `large_client_header_buffers`).
_LONGEST_LOCATION = 16 << 10
_MOST_DETAIL = 300
_NOT_IN_ADDRESSES = re.compile("[\x00-\x20\x7f]")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.\-]*://[^\s'\"`<>]+", re.IGNORECASE)


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
            UsageError: the address or the token is none.
        """
        from huggingface_hub import constants, get_token

        if token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            token = get_token()
        return cls(url=_checked_address(url or constants.ENDPOINT), token=_checked_token(token))

    @classmethod
    def several(cls, urls: str | Sequence[str] | None = None, token: str | None = None) -> tuple[Endpoint, ...]:
        """Return the endpoints in the order given, each once; the first one is as `from_environment` says.

        The others are mirrors that nobody vouches for: they get no token.

        Raises:
            UsageError: an address or the token is none.
        """
        first, *others = ([urls] if isinstance(urls, str) else list(urls or ())) or [""]
        found = cls.from_environment(first or None, token)
        mirrors = [cls(url=_checked_address(each)) for each in others]
        unique = {each.url: each for each in [*reversed(mirrors), found]}
        order = dict.fromkeys(each.url for each in [found, *mirrors])
        return tuple(unique[url] for url in order)

    @property
    def host(self) -> str:
        """Host, with the port where one is given; for people."""
        return host_of(self.url)

    @property
    def place(self) -> str:
        """Host and path prefix: below it lie the addresses of this Hub's pages (`core.reference`)."""
        return self.host + urlsplit(self.url).path


def _checked_address(text: str) -> str:
    address = text.strip()
    if "://" not in address:
        address = f"https://{address}"
    if not _is_address(address):
        raise UsageError(
            f"`{shown(redact(address))}` is not the address of a Hub",
            hint="for example `--endpoint https://huggingface.co`, without user, password or query",
        )
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _is_address(address: str) -> bool:
    if _NOT_IN_ADDRESSES.search(address) or "?" in address or "#" in address:
        return False
    try:
        parts = urlsplit(address)
        # A user or password would become an Authorization header beside the token's.
        return parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False


def _checked_token(token: str | None) -> str | None:
    """Return the token where a header can carry it; what it was is never said."""
    token = (token or "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise UsageError("the token holds characters that no token has", hint="copy it again, or run `hf auth login`")
    return token or None


def host_of(url: str) -> str:
    """Return host and explicit port of a URL, without user or password; for people."""
    try:
        return shown(urlsplit(url).netloc.rpartition("@")[2])
    except ValueError:
        return "an unreadable address"


def redact(url: str) -> str:
    """Return the URL without user, password, query and fragment: what may be shown and logged."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "an unreadable address"


def redact_text(text: str) -> str:
    """Return a library's or a server's sentence for a message: addresses redacted, one line, of bounded length."""
    return shown(_IN_TEXT.sub(lambda found: redact(found[0]), text[: 4 * _MOST_DETAIL]), _MOST_DETAIL)


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: what decides who may see the token."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme)


def target_of(url: str) -> bytes:
    """Return what a request to this address names: its path and query, as they are sent.

    Raises:
        ValueError: it is not quoted.
    """
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    if not _TARGET.match(target):
        raise ValueError("an address that is not quoted")
    return target.encode("ascii")


def api_url(endpoint: Endpoint, ref: RepoRef, rest: str = "") -> str:
    """Return an address of the repo's API; `rest` is quoted already."""
    return f"{endpoint.url}/api/{ref.kind}s/{quote(ref.repo_id, safe='/')}{rest}"


def page_url(endpoint: Endpoint, ref: RepoRef) -> str:
    """Return the address of the repo's page, for people."""
    return f"{endpoint.url}/{_PREFIXES[ref.kind]}{quote(ref.repo_id, safe='/')}"


def resolve_url(endpoint: Endpoint, ref: RepoRef, revision: str, path: str) -> str:
    """Return where the endpoint serves a file, or redirects to it."""
    return f"{page_url(endpoint, ref)}/resolve/{quote(revision, safe='')}/{quote(path, safe='/' + _PCHAR)}"


@functools.cache
def _user_agent() -> str:
    # `huggingface_hub.utils.build_hf_headers` would do, but 2.x asks the network in it, which no async call may.
    from huggingface_hub import __version__ as hub_version
    from huggingface_hub import constants

    from fetchverify import __version__

    parts = [f"fetchverify/{__version__}", f"python/{platform.python_version()}", f"hf_hub/{hub_version}"]
    if constants.HF_HUB_USER_AGENT_ORIGIN:
        parts.append(f"origin/{constants.HF_HUB_USER_AGENT_ORIGIN}")
    return "; ".join(parts)


def base_headers(endpoint: Endpoint | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the headers of every request; with an `endpoint`, those that only it may see as well."""
    headers = {"User-Agent": _user_agent(), "Accept-Encoding": "identity"}
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
    """Return the trust of this machine: `SSL_CERT_FILE`, else `SSL_CERT_DIR`, else what httpx brings.

    Raises:
        UsageError: the variable names no certificates.
    """
    try:
        return _trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    except OSError as error:  # ssl.SSLError is one
        name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise UsageError(
            f"`{name}` names no certificates that can be read: {error.strerror or error}",
            hint=f"point `{name}` to certificates in PEM form, or unset it",
        ) from error


@functools.lru_cache(maxsize=4)
def _trust(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return one context for all clients of these settings: reading the certificates costs 20 ms."""
    return httpx.create_ssl_context()


def no_cookies() -> CookieJar:
    """Return a jar that takes nothing: what one answer sets must not change what the next request sends."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def new_client() -> httpx.Client:
    """Return a client like `new_async_client`, for worker threads.

    Raises:
        UsageError: as `new_async_client`.
    """
    context = ssl_context()
    try:
        return httpx.Client(verify=context, timeout=timeouts(), follow_redirects=False, cookies=no_cookies())
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise bad_proxy(error) from error


def new_async_client(connections: int) -> httpx.AsyncClient:
    """Return a client for metadata: its shorter deadlines, no redirects by itself, proxies from the environment.

    Raises:
        UsageError: the environment's proxies or certificates cannot be used.
    """
    from huggingface_hub import constants

    context = ssl_context()
    try:
        return httpx.AsyncClient(
            verify=context,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=timeouts(float(constants.HF_HUB_ETAG_TIMEOUT)),
            follow_redirects=False,
            cookies=no_cookies(),
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise bad_proxy(error) from error


def bad_proxy(error: Exception) -> UsageError:
    """Return what to say when httpx cannot use the proxies of the environment; they may hold passwords."""
    if isinstance(error, ImportError):
        return UsageError("the proxy speaks SOCKS, which needs a package", hint="install `socksio`")
    return UsageError(
        "a proxy in the environment has no usable address", hint="check `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`"
    )


def decide_redirect(url: str, location: str, endpoint: Endpoint) -> tuple[str, bool]:
    """Return where a redirect leads, and whether that is the endpoint's own origin, which may see the token.

    Raises:
        BadRedirectError: no http(s) address, one with a password, or a step down from https to http.
    """
    if len(location) > _LONGEST_LOCATION:
        raise BadRedirectError("a redirect to an endless address")
    try:
        # RFC 3986 joining; then what httpx would refuse later is refused here.
        target = str(httpx.URL(urljoin(url, location)).copy_with(fragment=None))
        parts, origin = urlsplit(target), origin_of(target)
    except (httpx.InvalidURL, ValueError, UnicodeError) as error:
        raise BadRedirectError("a redirect to what is no address") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise BadRedirectError(f"a redirect to a `{shown(parts.scheme, 20)}` address")
    if parts.username is not None or parts.password is not None:
        # httpx would make an Authorization header of it.
        raise BadRedirectError("a redirect to an address with a user or password")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise BadRedirectError("a redirect from https to http")
    return target, origin == origin_of(endpoint.url)


def failure_from(error: Exception, *, host: str | None = None) -> Failure:
    """Translate what httpx, httpcore, a socket or TLS raised; anything else counts as a broken answer."""
    links = tuple(_causes(error))
    told = next((text for link in links if (text := str(link).strip())), type(error).__name__)
    for link in links:
        if isinstance(link, ssl.SSLCertVerificationError):
            why = getattr(link, "verify_message", None) or link
            return Failure(reason=Reason.TLS, detail=redact_text(f"certificate refused: {why}"), host=host)
    for link in links:
        if isinstance(link, socket.gaierror):
            # Also where the name does not exist: after resuming a laptop, that is what resolvers say for seconds.
            return Failure(reason=Reason.DNS, detail=f"the name could not be resolved: {link.strerror}", host=host)
    reason = next((found for link in links if (found := _reason_of(link)) is not None), Reason.PROTOCOL)
    if reason is Reason.PROXY and "407" in told:
        reason = Reason.PROXY_AUTH
    if reason is Reason.CONNECT and any(_is_settled_tls(link) for link in links):
        reason = Reason.TLS
    if reason is Reason.RESET and "without sending complete message body" in told:
        reason = Reason.SHORT_BODY  # h11's words; the class is the same as for a garbled head
    return Failure(reason=reason, detail=redact_text(told), host=host)


# By name, because the classes of httpx, httpx2, httpcore and httpcore2 are four families of the same names.
_REASONS_BY_NAME = {
    "ProxyError": Reason.PROXY,
    "ConnectTimeout": Reason.TIMEOUT,
    "TimeoutException": Reason.TIMEOUT,
    "ConnectError": Reason.CONNECT,
    "NetworkError": Reason.RESET,
    "RemoteProtocolError": Reason.PROTOCOL,
    "DecodingError": Reason.ENCODED,
    "TooManyRedirects": Reason.REDIRECT_LOOP,
    "UnsupportedProtocol": Reason.BAD_REDIRECT,
    "InvalidURL": Reason.BAD_REDIRECT,
    "StreamError": Reason.RESET,
}
_STACKS = ("httpx", "httpx2", "httpcore", "httpcore2")
# h11's sentences for a peer that went away, as httpcore passes them on.
_GONE = re.compile(r"(?i)disconnected|closed connection|without sending")


def _reason_of(error: BaseException) -> Reason | None:
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] in _STACKS and kind.__name__ in _REASONS_BY_NAME:
            reason = _REASONS_BY_NAME[kind.__name__]
            return Reason.RESET if reason is Reason.PROTOCOL and _GONE.search(str(error)) else reason
    if isinstance(error, ssl.SSLError):
        return Reason.CONNECT if _is_settled_tls(error) else Reason.RESET
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT
    return Reason.RESET if isinstance(error, OSError) else None


def _is_settled_tls(error: BaseException) -> bool:
    """True where both sides disagree about TLS itself; a connection that just ended during a handshake may heal."""
    return isinstance(error, ssl.SSLError) and not isinstance(
        error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it came from, each once, the outermost first."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [each for each in (link.__cause__, link.__context__) if each is not None]
        if isinstance(link, BaseExceptionGroup):  # anyio's attempts at several addresses of a host
            waiting += link.exceptions


def failure_from_status(response: Response, *, signed: bool = False) -> Failure:
    """Translate an error status; `signed` says that the address carried a signature, which may have expired."""
    status, headers = response.status_code, response.headers
    code = shown(headers.get("x-error-code", ""), 40) or None
    told = redact_text(headers.get("x-error-message", ""))
    detail = _DENIALS.get(code or "") or told or _phrase(status)
    if signed and 400 <= status < 500 and status not in (407, 408, 416, 429):
        # CDNs answer some expired or foreign signatures with 400 or 404; the Hub itself gave us this address.
        reason, detail = Reason.EXPIRED, "the signed address is not accepted any more"
    elif status in (401, 403):
        # 401 stands for repos that do not exist, too: who may not see a repo is not told that it is there.
        reason = Reason.ABSENT if code == "RepoNotFound" else Reason.DENIED
    elif status in (404, 410):
        reason = Reason.ABSENT
    elif status == 407:
        reason = Reason.PROXY_AUTH
    elif status in (408, 425, 429) or status >= 500:
        reason = Reason.BAD_STATUS
    elif status == 416:
        reason = Reason.WRONG_RANGE
    else:
        reason = Reason.REFUSED
    return Failure(
        reason=reason,
        detail=f"{detail} (HTTP {status})",
        status=status,
        code=code,
        retry_after_s=parse_wait(headers, now_s=time.time()),
        request_id=_request_id(headers),
        host=host_of(str(response.url)),
    )


def _request_id(headers: Mapping[str, str]) -> str | None:
    """Return how the server calls the request. Source: huggingface_hub 2.4.0 `utils/_http.py::_format`."""
    for name in ("x-request-id", "x-amzn-trace-id", "x-amz-cf-id"):
        if headers.get(name):
            return shown(headers[name], 80)
    return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return "an unknown status"


_DENIALS = {
    "GatedRepo": "the repo is gated: its licence must be accepted with the account of the token",
    "RepoNotFound": "no such repo, or it is private and the token may not see it",
    "RevisionNotFound": "no such revision",
    "EntryNotFound": "no such file at this commit",
}


def access_hint(endpoint: Endpoint, ref: RepoRef, failure: Failure) -> str:
    """Return the next thing to do where a repo, a revision or a file is absent or denied."""
    page = page_url(endpoint, ref)
    if failure.code == "GatedRepo":
        return f"accept the licence at {page}, then run `hf auth login` or set `HF_TOKEN`"
    if failure.code == "RevisionNotFound":
        return f"see the branches and tags at {page}"
    if failure.code is None and "credentials" in failure.detail.lower():
        return "the token is refused: run `hf auth login` again, or unset `HF_TOKEN`"
    if endpoint.token is None:
        return "check the name and `--repo-type`; a private or gated repo needs `hf auth login` or `HF_TOKEN`"
    return "check the name, `--repo-type`, and that the account of the token may see it (`hf auth whoami`)"
