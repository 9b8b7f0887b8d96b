"""Addresses, headers, who may see the token, and errors translated."""

from __future__ import annotations

import errno
import socket
import ssl
import subprocess
import sys
import textwrap
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify.core.manifest import RepoRef
from fetchverify.core.retry import Reason
from fetchverify.errors import UsageError
from fetchverify.net import wire

HUB = wire.Endpoint(url="https://hub.example", token="hf_secret")
REF = RepoRef(kind="dataset", repo_id="org/name", revision="main")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://huggingface.co/", "https://huggingface.co"),
        ("hf-mirror.com", "https://hf-mirror.com"),
        ("HTTP://Mirror.Local:8080/hub//", "http://mirror.local:8080/hub"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_endpoints_are_brought_into_one_form(text: str, url: str) -> None:
    """One place decides what is the same origin."""
    assert url == wire.Endpoint.from_environment(text, "").url


@pytest.mark.parametrize(
    "text",
    ["ftp://x", "https://", "https://a b", "https://x/?q=1", "https://x#f", "https://me:hf_secret@x", "https://x:99999",
     "https://[::1", "https://x:0", "https://x\x1b[0m"],
)  # fmt: skip
def test_what_is_no_endpoint_is_a_usage_error(text: str) -> None:
    """And what may be secret in it is not repeated."""
    with pytest.raises(UsageError) as caught:
        wire.Endpoint.from_environment(text, "")
    assert "secret" not in caught.value.message
    assert caught.value.message.isprintable()


def test_tokens_come_from_where_the_hub_client_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument, else the environment; an empty one is nobody; and none is ever shown."""
    monkeypatch.setenv("HF_TOKEN", "hf_env")
    assert wire.Endpoint.from_environment("https://x").token == "hf_env"
    assert wire.Endpoint.from_environment("https://x", " hf_arg\n").token == "hf_arg"
    assert wire.Endpoint.from_environment("https://x", "").token is None
    assert "hf_arg" not in repr(wire.Endpoint.from_environment("https://x", "hf_arg"))
    with pytest.raises(UsageError) as caught:
        wire.Endpoint.from_environment("https://x", "hf_se\ncret")
    assert "hf_se" not in f"{caught.value.message}{caught.value.hint}"


def test_of_several_endpoints_the_first_alone_has_the_token() -> None:
    first, *mirrors = wire.Endpoint.several(["https://x/", "b", "https://X", "https://b/"], "hf_arg")
    assert wire.Endpoint(url="https://x", token="hf_arg") == first
    assert [wire.Endpoint(url="https://b", token=None)] == mirrors
    assert (first,) == wire.Endpoint.several("https://x", "hf_arg")
    assert wire.Endpoint.several(None, "") == wire.Endpoint.several((), "") == wire.Endpoint.several("", "")


def test_addresses_are_quoted() -> None:
    """Names of files are strangers' words."""
    url = wire.resolve_url(HUB, REF, "refs/pr/1", "a b/é?#%.txt")
    assert url == "https://hub.example/datasets/org/name/resolve/refs%2Fpr%2F1/a%20b/%C3%A9%3F%23%25.txt"
    assert httpx.URL(url).raw_path.decode() == url.removeprefix("https://hub.example")
    assert wire.api_url(HUB, REF, "/tree/x") == "https://hub.example/api/datasets/org/name/tree/x"


def test_only_the_endpoint_sees_the_token() -> None:
    """A CDN gets neither the token nor the download counter."""
    assert wire.base_headers(HUB)["Authorization"] == "Bearer hf_secret"
    assert {"User-Agent", "Accept-Encoding"} == set(wire.base_headers(None))
    assert wire.base_headers(None)["User-Agent"].startswith("fetchverify/")


@pytest.mark.parametrize(
    ("location", "target", "own"),
    [
        ("/other?x=1#frag", "https://hub.example/other?x=1", True),
        ("https://HUB.example:443/b", "https://hub.example/b", True),
        ("//hub.example/c", "https://hub.example/c", True),
        ("https://hub.example:444/b", "https://hub.example:444/b", False),
        ("https://cdn.example/f?Signature=s", "https://cdn.example/f?Signature=s", False),
        ("https://hub.example.evil/b", "https://hub.example.evil/b", False),
    ],
)
def test_redirects(location: str, target: str, own: bool) -> None:
    """Scheme, host and port make an origin; anything less gives the token away."""
    assert (target, own) == wire.decide_redirect("https://hub.example/a", location, HUB)


@pytest.mark.parametrize(
    "location",
    ["http://hub.example/a", "file:///etc/passwd", "javascript:x", "https://me@cdn.example/x", "http://[x",
     "https://cdn.example:99999/x", "/" + "x" * 20_000],
)  # fmt: skip
def test_redirects_that_are_not_followed(location: str) -> None:
    """Down to http, into files, with a password, to nowhere."""
    with pytest.raises(wire.BadRedirectError):
        wire.decide_redirect("https://hub.example/a", location, HUB)


def test_secrets_in_addresses_are_not_shown() -> None:
    """Signed addresses are keys."""
    assert wire.redact("https://me:pw@cdn.example:1/a/b?Signature=s#f") == "https://cdn.example:1/a/b"
    assert wire.redact("http://[") == "an unreadable address"
    assert wire.redact_text("no way to 'https://me:pw@x/a?Signature=s' \x1b[0m") == (
        "no way to 'https://x/a' \\x1b[0m".replace("'", "'")
    )
    assert len(wire.redact_text("x" * 9999)) == 300


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectTimeout("slow"), Reason.TIMEOUT),
        (httpx.ReadTimeout(""), Reason.TIMEOUT),
        (httpx.PoolTimeout(""), Reason.TIMEOUT),
        (httpx.ConnectError("refused"), Reason.CONNECT),
        (httpx.ReadError(""), Reason.RESET),
        (httpx.WriteError(""), Reason.RESET),
        (httpx.ProxyError("407 Proxy Authentication Required"), Reason.PROXY_AUTH),
        (httpx.ProxyError("502 Bad Gateway"), Reason.PROXY),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), Reason.RESET),
        (
            httpx.RemoteProtocolError("peer closed connection without sending complete message body (received 1 byte)"),
            Reason.SHORT_BODY,
        ),
        (httpx.RemoteProtocolError("illegal status line"), Reason.PROTOCOL),
        (httpx.DecodingError("bad gzip"), Reason.ENCODED),
        (httpx.UnsupportedProtocol("ftp"), Reason.BAD_REDIRECT),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Reason.RESET),
        (TimeoutError("slow"), Reason.TIMEOUT),
        (ssl.SSLEOFError("eof"), Reason.RESET),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Reason.DNS),
        (ValueError("read of closed file"), Reason.PROTOCOL),
    ],
)  # fmt: skip
def test_errors_of_the_stack_become_failures(error: Exception, reason: Reason) -> None:
    """What is tried again depends on nothing else."""
    failure = wire.failure_from(error, host="hub.example")
    assert (reason, "hub.example") == (failure.reason, failure.host)
    assert failure.detail


def test_causes_behind_the_stacks_errors_count() -> None:
    """httpx says `ConnectError` for a name, a port and a certificate alike."""

    def behind(cause: Exception) -> Reason:
        error = httpx.ConnectError("all attempts failed")
        error.__cause__ = OSError("several")
        error.__cause__.__cause__ = ExceptionGroup("attempts", [cause])
        return wire.failure_from(error).reason

    assert behind(socket.gaierror(socket.EAI_AGAIN, "try again")) is Reason.DNS
    assert behind(ssl.SSLCertVerificationError(1, "self-signed certificate")) is Reason.TLS
    assert behind(ssl.SSLError(1, "wrong version number")) is Reason.TLS
    assert behind(ssl.SSLEOFError(8, "EOF")) is Reason.CONNECT
    assert behind(ConnectionRefusedError(111, "refused")) is Reason.CONNECT


def answer(status: int, **headers: str) -> wire.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx.Request("GET", "https://hub.example:8443/a?Signature=s")
    return httpx.Response(status, headers=fields, request=request)


@pytest.mark.parametrize(
    ("status", "code", "signed", "reason"),
    [
        (401, None, False, Reason.DENIED),
        (401, "RepoNotFound", False, Reason.ABSENT),
        (403, "GatedRepo", False, Reason.DENIED),
        (404, None, False, Reason.ABSENT),
        (407, None, False, Reason.PROXY_AUTH),
        (408, None, False, Reason.BAD_STATUS),
        (416, None, False, Reason.WRONG_RANGE),
        (429, None, True, Reason.BAD_STATUS),
        (400, None, False, Reason.REFUSED),
        (400, None, True, Reason.EXPIRED),
        (403, None, True, Reason.EXPIRED),
        (404, None, True, Reason.EXPIRED),
        (503, None, True, Reason.BAD_STATUS),
        (599, None, False, Reason.BAD_STATUS),
    ],
)
def test_statuses_become_failures(status: int, code: str | None, signed: bool, reason: Reason) -> None:
    """A 403 of the Hub is a verdict, a 403 of a signed address is the end of its life."""
    failure = wire.failure_from_status(answer(status, **({"X_Error_Code": code} if code else {})), signed=signed)
    assert (reason, status, code, "hub.example:8443") == (failure.reason, failure.status, failure.code, failure.host)


def test_a_failure_says_what_the_server_said() -> None:
    """For the user, and for a bug report to the server's people; on one line, without secrets."""
    failure = wire.failure_from_status(
        answer(503, X_Error_Message="down, see https://x/y?token=t", X_Request_Id="Root=1", RateLimit='"api";r=0;t=9')
    )
    assert failure.summary == "down, see https://x/y (HTTP 503) (`hub.example:8443`, request id `Root=1`)"
    assert failure.retry_after_s == 9.0


def test_certificates_and_proxies_that_cannot_be_used_are_usage_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Anything else would be a traceback before the first request."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        wire.ssl_context()
    (tmp_path / "broken.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "broken.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        wire.ssl_context()
    monkeypatch.delenv("SSL_CERT_FILE")
    for proxy in ("gopher://user:hf_secret@x", "http://user:hf_secret@x:port"):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(UsageError) as caught:
            wire.new_async_client(1)
        assert "secret" not in caught.value.message


def test_no_answer_leaves_a_cookie() -> None:
    """What one answer sets must not change, or single out, the next request."""
    jar = wire.no_cookies()
    request = httpx.Request("GET", "https://hub.example/")
    cookies = httpx.Cookies(jar)
    cookies.extract_cookies(httpx.Response(200, headers={"Set-Cookie": "a=b"}, request=request))
    assert isinstance(jar, CookieJar)
    assert [] == list(jar)


@pytest.mark.parametrize("module", ["fetchverify.net.wire", "fetchverify.net.hub", "fetchverify.net.transport"])
def test_one_process_has_one_http_stack(module: str) -> None:
    """The hub's httpx and nobody else's: two stacks would mean two pools, two trusts and foreign exceptions."""
    code = f"""
        import sys
        import {module}
        from huggingface_hub.utils import httpx
        other = {{"httpx": "httpx2", "httpx2": "httpx"}}[httpx.__name__]
        print([name for name in sys.modules if name.split(".")[0] in (other, other.replace("x", "core", 1))])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
