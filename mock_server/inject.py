"""Faults carried out on values: on the request, on the resource behind it, on the response; `serve` does the rest."""

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mock_server import faults as f
from mock_server.content import Content, Flipped, InMemory, Resized, Seeded
from mock_server.messages import Delivery, Headers, Origin, Request, Response, respond

_ERROR_NAMES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_HTML = b"<!doctype html><html><head><title>Sign in</title></head><body>Please sign in to the network</body></html>\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """The bytes and the ETag behind a URL, before a range is cut out of them."""

    content: Content
    etag: str


def applies(fault: f.Fault, request: Request) -> bool:
    """Tell whether a fault that was picked for a request changes anything; some depend on the moment."""
    return not isinstance(fault, f.MaxConnections) or request.open_connections > fault.limit


def on_request(request: Request, faults: Sequence[f.Fault]) -> Request:
    """Return the request as a faulty server understands it."""
    if any(isinstance(fault, f.IgnoreRange) for fault in faults):
        return replace(request, headers=request.headers.without("range"))
    return request


def on_resource(resource: Resource, faults: Sequence[f.Fault], sibling: Callable[[str], Content | None]) -> Resource:
    """Return the resource as a faulty store holds it; `sibling` finds another file of the same commit."""
    for fault in faults:
        content = resource.content
        match fault:
            case f.Flip(offset=offset, mask=mask):
                resource = replace(resource, content=Flipped(content, offset, mask))
            case f.Swap(other=other):
                found = sibling(other) if other is not None else None
                resource = replace(resource, content=found or Seeded(content.size, f"swapped {content.fingerprint}"))
            case f.ChangeEtag(etag=etag):
                resource = replace(resource, etag=etag)
            case f.ChangeContent(size=size, etag=etag):
                size = content.size if size is None else size
                changed = Seeded(size, f"changed {content.fingerprint}")
                resource = Resource(content=changed, etag=etag)
            case _:
                pass
    return resource


def on_response(
    response: Response,
    faults: Sequence[f.Fault],
    *,
    request: Request,
    endpoints: Mapping[Origin, str | None],
) -> Response:
    """Return the response as a faulty server sends it, with instructions for the wire in its `delivery`."""
    for fault in faults:
        response = _on_response(response, fault, request, endpoints)
    return response


def _on_response(
    response: Response, fault: f.Fault, request: Request, endpoints: Mapping[Origin, str | None]
) -> Response:
    target = f"{request.path}?{request.query}" if request.query else request.path
    match fault:
        case f.Cut(after=after, reset=reset):
            return _deliver(response, cut_after=after, reset=reset)
        case f.Stall(after=after, seconds=seconds):
            return _deliver(response, stall_after=after, stall_s=seconds)
        case f.Trickle(rate=rate):
            return _deliver(response, rate=rate)
        case f.Delay(seconds=seconds):
            return _deliver(response, delay_s=seconds)
        case f.Interim(status=status, headers=headers):
            interim = (*response.delivery.interim, (status, Headers(tuple(headers.items()))))
            return _deliver(response, interim=interim)
        case f.Close(reset=reset):
            return _deliver(response, silent=True, reset=reset)
        case f.Garbage(data=data):
            return _deliver(response, raw=data.encode())
        case f.HangUp():
            return _deliver(response, hang_up=True)
        case f.WrongContentRange(shift=shift, value=value):
            return response.header("Content-Range", value or _shifted(response, shift))
        case f.Shorten(by=by):
            stop = max(response.start, response.stop - by)
            shorter = replace(response, stop=stop)
            return shorter.header("Content-Length", str(stop - response.start))
        case f.Lengthen(by=by, honest=False):
            return _deliver(response, extra=bytes(by))
        case f.Lengthen(by=by):
            stop = response.stop + by
            longer = replace(response, stop=stop, content=Resized(response.content, max(stop, response.content.size)))
            return longer.header("Content-Length", str(stop - response.start))
        case f.HtmlPage(status=status):
            return respond(status, _HTML, content_type="text/html; charset=utf-8")
        case f.Gzip():
            packed = gzip.compress(response.content.read(response.start, response.stop), 1, mtime=0)
            body = replace(response, content=InMemory(packed), start=0, stop=len(packed))
            return body.header("Content-Encoding", "gzip").header("Content-Length", str(len(packed)))
        case f.Status():
            return error_status(fault)
        case f.Expire():
            return expired()
        case f.DropHeaders(names=names):
            return replace(response, headers=response.headers.without(*names))
        case f.SetHeaders(headers=headers):
            for name, text in headers.items():
                response = response.header(name, text)
            return response
        case f.RedirectLoop(status=status):
            return respond(status, location=target)
        case f.RedirectTo(to=to, status=status):
            return respond(status, location=_origin_of(to, endpoints, target))
        case f.Replace(status=status, headers=headers, body=text):
            made = respond(status, text.encode())
            for name, value in headers.items():
                made = made.header(name, value)
            return made
        case f.NextPage(to=to):
            here: str = request.origin if to == "self" else to
            return response.header("Link", f'<{_origin_of(here, endpoints, target)}>; rel="next"')
        case f.Chunked():
            bare = replace(response, headers=response.headers.without("content-length"), chunked=True)
            return bare.header("Transfer-Encoding", "chunked")
        case f.RefuseKeepAlive():
            return response.header("Connection", "close")
        case f.MaxConnections(retry_after=retry_after):
            if not applies(fault, request):
                return response
            return error_status(f.Status(code=429, retry_after=retry_after))
        case f.IgnoreRange() | f.Flip() | f.Swap() | f.ChangeEtag() | f.ChangeContent():
            return response  # done before


def error_status(fault: f.Status) -> Response:
    """Return the response of a `Status` fault."""
    message = fault.message or _ERROR_NAMES.get(fault.code, "Error")
    made = respond(fault.code, message.encode(), x_error_message=message)
    if fault.error_code is not None:
        made = made.header("X-Error-Code", fault.error_code)
    if fault.retry_after is not None:
        made = made.header("Retry-After", str(fault.retry_after))
    if fault.ratelimit is not None:
        made = made.header("RateLimit", fault.ratelimit)
        made = made.header("RateLimit-Policy", '"fixed window";"api";q=500;w=300')
    return made


def expired() -> Response:
    """Return what the CDN says to an expired or altered signature."""
    body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>"
    return respond(403, body, content_type="application/xml")


def _deliver(response: Response, **changes: object) -> Response:
    delivery: Delivery = replace(response.delivery, **changes)  # type: ignore[arg-type]
    return replace(response, delivery=delivery)


def _shifted(response: Response, shift: int) -> str:
    current = response.headers.get("content-range") or f"bytes {response.start}-{response.stop - 1}/{response.stop}"
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\S+)", current)
    if found is None:
        return current
    return f"bytes {int(found[1]) + shift}-{int(found[2]) + shift}/{found[3]}"


def _origin_of(to: str, endpoints: Mapping[Origin, str | None], target: str) -> str:
    match to:
        case "hub" | "cdn" | "other":
            return f"{endpoints[to] or ''}{target}"
        case _:
            return to
