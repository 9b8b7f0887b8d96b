"""Faults as data, and the rules that say which requests they hit; carrying them out is left to `inject` and `serve`."""

import fnmatch
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from mock_server.messages import Origin, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """End the body after so many bytes and close: by FIN, or by RST with `reset`."""

    after: int
    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Send so many body bytes, then nothing for a while, then the rest."""

    after: int = 0
    seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """Send the body at so many bytes a second."""

    rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Wait before the head."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongContentRange:
    """Announce a range that is off by `shift` bytes, or exactly `value`."""

    shift: int = 1
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRange:
    """Answer 200 with the whole file to a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shorten:
    """Serve `by` bytes less, with a Content-Length that says so; the Content-Range stays as asked."""

    by: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengthen:
    """Serve `by` bytes more: announced by the Content-Length (`honest`), or sent behind it."""

    by: int = 1
    honest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Change the byte at an absolute offset of the file."""

    offset: int
    mask: int = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Serve the bytes of another file of the commit, or with None strange bytes of the same size; headers stay."""

    other: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEtag:
    """Serve the same bytes under another ETag; an If-Range with the old one no longer holds."""

    etag: str = '"changed"'


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeContent:
    """Serve other bytes under another ETag, as when a file was replaced; None keeps the size."""

    size: int | None = None
    etag: str = '"changed"'


@dataclass(frozen=True, slots=True, kw_only=True)
class HtmlPage:
    """Answer with a web page, as captive portals and proxies do."""

    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Gzip:
    """Compress the body though identity was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer with an error."""

    code: int
    error_code: str | None = None
    message: str | None = None
    retry_after: str | int | None = None
    ratelimit: str | None = None
    """Value of the RateLimit header, such as `"api";r=0;t=55`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Refuse a signed URL as expired (403)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropHeaders:
    """Leave out header fields, as mirrors do."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHeaders:
    """Set header fields, to lie about size or identity."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectLoop:
    """Redirect to the very same URL."""

    status: int = 302


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectTo:
    """Redirect the same path to another origin (`hub`, `cdn`, `other`) or to a full URL."""

    to: str = "other"
    status: int = 302


@dataclass(frozen=True, slots=True, kw_only=True)
class Interim:
    """Send an interim response before the final one."""

    status: int = 103
    headers: Mapping[str, str] = field(default_factory=lambda: {"Link": "</style.css>; rel=preload"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Close the connection without a response."""

    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Send something that is not HTTP and close."""

    data: str = "\x00\x01 this is not HTTP\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Answer with exactly this."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: str = "this is not JSON"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPage:
    """Let a page of a listing name itself (`self`), another host (`other`) or a given URL as the next one."""

    to: str = "self"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked:
    """Send the body in chunks, without a length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseKeepAlive:
    """Close after the response and say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """Close after the response without saying so: a kept connection turns out dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxConnections:
    """Answer 429 while the origin has more connections open than this."""

    limit: int
    retry_after: int | None = None


Fault = (
    Cut
    | Stall
    | Trickle
    | Delay
    | WrongContentRange
    | IgnoreRange
    | Shorten
    | Lengthen
    | Flip
    | Swap
    | ChangeEtag
    | ChangeContent
    | HtmlPage
    | Gzip
    | Status
    | Expire
    | DropHeaders
    | SetHeaders
    | RedirectLoop
    | RedirectTo
    | Interim
    | Close
    | Garbage
    | Replace
    | NextPage
    | Chunked
    | RefuseKeepAlive
    | HangUp
    | MaxConnections
)
FAULTS: tuple[type[Fault], ...] = get_args(Fault)

_OF_BODIES = (
    Cut, Stall, Trickle, WrongContentRange, IgnoreRange, Shorten, Lengthen, Flip, Swap, ChangeEtag, ChangeContent,
    Gzip, Chunked,
)  # fmt: skip

Nth = int | Sequence[int] | str


def kind_of(fault: Fault) -> str:
    """Return the name of a fault in scenario files and in the ledger."""
    return kind_of_type(type(fault))


def kind_of_type(fault: type[Fault]) -> str:
    """Return the name of a kind of fault: `WrongContentRange` is `wrong-content-range`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", fault.__name__).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a rule can look at."""

    origin: Origin
    route: Route
    method: str
    path: str
    file: str | None
    repo: str | None
    range: tuple[int, int | None] | None
    token: str | None
    serves_bytes: bool
    """The request is a GET, and file bytes are due in answer rather than a redirect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a rule looks at; what is None does not matter.

    `path` is a glob (`*` crosses slashes) over the file's path within the repo or over the URL's path. `start`
    is the exact first byte of the range asked for, `covers` an offset that the range must contain. `token` is
    `none`, `any` or a literal one. `repo` is a glob over the repo id.
    """

    method: str | None = None
    path: str | None = None
    regex: str | None = None
    route: Route | None = None
    origin: Origin | None = None
    repo: str | None = None
    start: int | None = None
    covers: int | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.route is not None and self.route not in get_args(Route):
            raise ValueError(f"unknown route `{self.route}`; one of {', '.join(get_args(Route))}")
        if self.origin is not None and self.origin not in get_args(Origin):
            raise ValueError(f"unknown origin `{self.origin}`; one of {', '.join(get_args(Origin))}")
        if self.regex is not None:
            re.compile(self.regex)

    def accepts(self, exchange: Exchange) -> bool:
        """Tell whether a request is one of these."""
        asked = exchange.range or (0, None)
        return (
            (self.method is None or self.method.upper() == exchange.method)
            and (self.path is None or any(fnmatch.fnmatchcase(name, self.path) for name in _names(exchange)))
            and (self.regex is None or any(re.search(self.regex, name) for name in _names(exchange)))
            and (self.route is None or self.route == exchange.route)
            and (self.origin is None or self.origin == exchange.origin)
            and (self.repo is None or fnmatch.fnmatchcase(exchange.repo or "", self.repo))
            and (self.start is None or (exchange.range is not None and exchange.range[0] == self.start))
            and (self.covers is None or (asked[0] <= self.covers and (asked[1] is None or self.covers < asked[1])))
            and (self.token is None or _token_is(self.token, exchange.token))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A fault and the requests it hits.

    `nth` counts the matching requests from 1: a number, several numbers, `"every"`, `"every 3"`, `"first 3"` or
    `"from 2"`. Faults of bodies (`Cut`, `Flip`, ...) look only at GETs that are answered with file bytes, so that
    HEADs and redirects are not counted, unless `match.route` names an API route.
    """

    fault: Fault
    match: Match = field(default_factory=Match)
    nth: Nth = "every"

    def __post_init__(self) -> None:
        _nth_hits(self.nth, 1)

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether a request counts for this rule."""
        if isinstance(self.fault, _OF_BODIES) and self.match.route in (None, "resolve", "cdn", "other"):
            return exchange.serves_bytes and self.match.accepts(exchange)
        return self.match.accepts(exchange)


class FaultBook:
    """The rules in force and how often each matched; safe between threads."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._lock = threading.Lock()
        self._rules = list(rules)
        self._counts = [0] * len(self._rules)

    def add(self, rule: Rule) -> None:
        """Put a rule in force."""
        with self._lock:
            self._rules.append(rule)
            self._counts.append(0)

    def clear(self) -> None:
        """Drop all rules."""
        with self._lock:
            self._rules.clear()
            self._counts.clear()

    def pick(self, exchange: Exchange) -> tuple[Fault, ...]:
        """Count a request and return the faults that hit it, in the order of the rules."""
        hits: list[Fault] = []
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.concerns(exchange):
                    self._counts[index] += 1
                    if _nth_hits(rule.nth, self._counts[index]):
                        hits.append(rule.fault)
        return tuple(hits)


def _names(exchange: Exchange) -> tuple[str, ...]:
    return (exchange.path,) if exchange.file is None else (exchange.file, exchange.path)


def _token_is(wanted: str, token: str | None) -> bool:
    return {"none": token is None, "any": token is not None}.get(wanted, token == wanted)


def _nth_hits(nth: Nth, count: int) -> bool:
    if isinstance(nth, int):
        return count == nth
    if not isinstance(nth, str):
        return count in nth
    match nth.split():
        case ["every"]:
            return True
        case ["every", number] if number.isdigit() and int(number):
            return count % int(number) == 0
        case ["first", number] if number.isdigit():
            return count <= int(number)
        case ["from", number] if number.isdigit():
            return count >= int(number)
    raise ValueError(f'nth `{nth}` is none of a number, a list, "every", "every N", "first N", "from N"')
