"""Requests and responses as values, and HTTP's range rules; bytes on sockets are left to `serve`."""

import base64
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from mock_server.content import Content, InMemory

Origin = Literal["hub", "cdn", "other"]
Route = Literal["api", "tree", "paths-info", "resolve", "git", "lfs", "cdn", "other"]

_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*")


class Headers:
    """Ordered header fields with names that ignore case."""

    def __init__(self, items: "tuple[tuple[str, str], ...]" = ()) -> None:
        self.items = items

    def get(self, name: str) -> str | None:
        """Return the first value of a field."""
        wanted = name.lower()
        return next((value for key, value in self.items if key.lower() == wanted), None)

    def without(self, *names: str) -> "Headers":
        """Return the fields other than these."""
        dropped = {name.lower() for name in names}
        return Headers(tuple(item for item in self.items if item[0].lower() not in dropped))

    def with_(self, name: str, value: str) -> "Headers":
        """Return the fields with this one set, in place of any of that name."""
        return Headers((*self.without(name).items, (name, value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came, target split but not unquoted."""

    origin: Origin
    method: str
    path: str
    query: str = ""
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    connection: int = 0
    open_connections: int = 1
    """How many connections the origin has open, this one included."""

    @property
    def token(self) -> str | None:
        """The bearer token, or the password that git sends in its place, if one was sent."""
        value = self.headers.get("authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "basic":
            try:
                return base64.b64decode(token).decode().partition(":")[2]
            except ValueError:
                return value
        return token.strip() if scheme.lower() == "bearer" else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How the wire is to send a response, when it is to misbehave."""

    delay_s: float = 0.0
    interim: tuple[tuple[int, Headers], ...] = ()
    cut_after: int | None = None
    """Close after so many body bytes."""
    reset: bool = False
    """Close by RST in place of FIN."""
    stall_after: int | None = None
    stall_s: float = 0.0
    rate: int | None = None
    """Body bytes a second."""
    silent: bool = False
    """Send nothing at all and close."""
    raw: bytes | None = None
    """Send this in place of a response and close."""
    extra: bytes = b""
    """Bytes sent after the body."""
    hang_up: bool = False
    """Close after the response without having said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What to send: the wire copies `headers` as they are, also where they lie about the body."""

    status: int
    headers: Headers = field(default_factory=Headers)
    content: Content = field(default_factory=lambda: InMemory(b""))
    start: int = 0
    stop: int = 0
    chunked: bool = False
    delivery: Delivery = field(default_factory=Delivery)

    def header(self, name: str, value: str) -> "Response":
        """Return the response with one header set."""
        return replace(self, headers=self.headers.with_(name, value))


def respond(
    status: int, body: bytes = b"", *, content_type: str = "text/plain; charset=utf-8", **headers: str
) -> Response:
    """Return a small response with an honest Content-Length; `x_error_code=...` names a header."""
    fields = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    fields += [("-".join(part.capitalize() for part in name.split("_")), value) for name, value in headers.items()]
    return Response(status=status, headers=Headers(tuple(fields)), content=InMemory(body), stop=len(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A satisfiable range `[start, stop)`."""

    start: int
    stop: int


class Unsatisfiable(Exception):  # noqa: N818 - HTTP's own word for it
    """No byte of the file lies in the range: answer 416."""


def parse_range(value: str | None, size: int) -> ByteRange | None:
    """Return the single range a `Range` header asks for, clipped to the file; None if the header is to be ignored.

    Several ranges, other units and malformed values are ignored, which RFC 9110 §14.2 allows.

    Raises:
        Unsatisfiable: the range lies beyond the file, or is a suffix of no bytes.
    """
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None:
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if not first:
        if int(last) == 0 or size == 0:
            raise Unsatisfiable
        return ByteRange(start=max(size - int(last), 0), stop=size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start=start, stop=min(int(last) + 1, size) if last else size)


def asked_range(value: str | None, size: int | None) -> tuple[int, int | None] | None:
    """Return the range a request asked for as rules and ledger show it, not clipped to the file.

    The stop is None where it was left open; a suffix is resolved if the size is known, else its start is negative.
    """
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return (max(size - int(match[2]), 0), size) if size is not None else (-int(match[2]), None)
    return int(match[1]), int(match[2]) + 1 if match[2] else None
