"""What to do after a failure, and how long to wait; clock, chance and sleep are the caller's."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, Literal, TypeAlias


class Reason(Enum):
    """How one request failed."""

    DNS = "the name could not be resolved"
    CONNECT = "no connection"
    TIMEOUT = "timed out"
    RESET = "the connection broke"
    PROXY = "the proxy failed"
    PROXY_AUTH = "the proxy wants a password"
    TLS = "the server could not be trusted"
    SHORT_BODY = "the body ended early"
    LONG_BODY = "the body is too long"
    WRONG_LENGTH = "the announced length is wrong"
    BAD_STATUS = "the server refused"
    RANGE_IGNORED = "the server ignores ranges"
    WRONG_RANGE = "another range came"
    REMOTE_CHANGED = "the file changed on the server"
    CONTRADICTED = "the server contradicts itself"
    ENCODED = "the body is encoded"
    NOT_THE_FILE = "something else came"
    EXPIRED = "the signed address expired"
    DENIED = "access denied"
    ABSENT = "not there"
    REFUSED = "the request was refused"
    REDIRECT_LOOP = "too many redirects"
    BAD_REDIRECT = "redirected to where we do not go"
    PROTOCOL = "the answer breaks HTTP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One request's failure; carries no secret: `detail` was redacted by `net`.

    Attributes:
        reason: the class of failure, on which `decide` works.
        status: HTTP status, where one came.
        code: the Hub's `X-Error-Code`, such as `GatedRepo`.
        retry_after_s: how long the server asked us to wait.
        detail: for people; may be empty.
        request_id: the server's name for the request, for bug reports to it.
        host: who failed.
    """

    reason: Reason
    status: int | None = None
    code: str | None = None
    retry_after_s: float | None = None
    detail: str = ""
    request_id: str | None = None
    host: str | None = None

    @property
    def summary(self) -> str:
        """One line for people: what went wrong, where, and how the server calls the request."""
        text = self.detail or self.reason.value
        if self.status is not None and str(self.status) not in text:
            text = f"HTTP {self.status}: {text}"
        where = [f"`{self.host}`"] if self.host and self.host not in text else []
        where += [f"request id `{self.request_id}`"] if self.request_id else []
        return f"{text} ({', '.join(where)})" if where else text

    def as_json(self) -> dict[str, Any]:
        """Return the failure as a JSON object; `reason` is the enum's name in lower case."""
        return {**asdict(self), "reason": self.reason.name.lower()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Ask the same address again after `wait_s` seconds."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReResolve:
    """Ask the Hub where the file lies, after `wait_s` seconds, and go on from the same byte."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStream:
    """Read the file in one stream from its start: this server cannot do ranges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Give up.

    Attributes:
        why: `final` where asking again cannot help, `exhausted` where it was asked often or long enough,
            `wait_too_long` where the server asks for more patience than we have.
    """

    why: Literal["final", "exhausted", "wait_too_long"]


Verdict: TypeAlias = Again | ReResolve | OneStream | Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long to try; progress starts both counts anew.

    Attributes:
        attempts: tries without progress (git-lfs: `lfs.transfer.maxretries` 8).
        suspect_attempts: tries against answers that are wrong rather than missing (huggingface_hub 2.4.0
            `http_backoff`: 5).
        elapsed_s: seconds without progress; three of the Hub's 5-minute quota windows.
        first_wait_s: upper bound of the first wait; each next one doubles.
        most_wait_s: upper bound of every wait of our own choice (AWS SDKs 20 s, gRPC 120 s).
        most_asked_wait_s: longest wait a server may ask for: twice the Hub's quota window.
    """

    attempts: int = 8
    suspect_attempts: int = 5
    elapsed_s: float = 900.0
    first_wait_s: float = 0.5
    most_wait_s: float = 60.0
    most_asked_wait_s: float = 600.0


PATIENT = Patience()


def patience(retries: int) -> Patience:
    """Return how often to try, as `--retries` says."""
    attempts = max(1, retries)
    return replace(PATIENT, attempts=attempts, suspect_attempts=min(attempts, PATIENT.suspect_attempts))


# Certificates, passwords, rights and absences do not heal by asking again; a contradiction between the Hub's own
# statements is a finding; where a redirect leads is the server's settled opinion.
_FINAL = frozenset(
    {
        Reason.TLS,
        Reason.PROXY_AUTH,
        Reason.CONTRADICTED,
        Reason.DENIED,
        Reason.ABSENT,
        Reason.REFUSED,
        Reason.REDIRECT_LOOP,
        Reason.BAD_REDIRECT,
    }
)
# Wrong rather than missing: captive portals, broken caches and proxies. A fresh address may lead to another node.
_SUSPECT = frozenset(
    {
        Reason.LONG_BODY,
        Reason.WRONG_LENGTH,
        Reason.WRONG_RANGE,
        Reason.REMOTE_CHANGED,
        Reason.ENCODED,
        Reason.NOT_THE_FILE,
        Reason.PROTOCOL,
    }
)
# 408 and 425 invite another try (RFC 9110 §15.5.9, RFC 8470 §5.2), 429 is a quota. Of 5xx, 501 and 505 are opinions
# (RFC 9110 §15.6.2, §15.6.6) and 511 is a captive portal's login (RFC 6585 §6). 520 to 530 are Cloudflare's.
_AGAIN_BELOW_500 = frozenset({408, 425, 429})
_NEVER_FROM_500 = frozenset({501, 505, 511})


def decide(failure: Failure, *, attempt: int, elapsed_s: float, jitter: float, patience: Patience = PATIENT) -> Verdict:
    """Return what follows a failure.

    Args:
        failure: what went wrong last.
        attempt: how many times in a row, without progress between; 1 is the first.
        elapsed_s: seconds since the last progress.
        jitter: a fresh random number in `[0, 1)`.
        patience: how often and how long.
    """
    reason, asked_s = failure.reason, failure.retry_after_s
    if reason in _FINAL or (reason is Reason.BAD_STATUS and not _worth_asking_again(failure.status)):
        return Stop(why="final")
    if reason is Reason.RANGE_IGNORED:
        return OneStream()
    if asked_s is not None and asked_s > patience.most_asked_wait_s:
        return Stop(why="wait_too_long")
    if elapsed_s >= patience.elapsed_s:
        return Stop(why="exhausted")
    most = min(patience.attempts, patience.suspect_attempts) if reason in _SUSPECT else patience.attempts
    # A server that says when to come back is not failing: 16 connections would spend 8 attempts on one empty quota.
    waits_for_quota = asked_s is not None and failure.status == 429 and patience.attempts > 1
    if attempt >= most and not waits_for_quota:
        return Stop(why="exhausted")
    if reason is Reason.EXPIRED and attempt == 1:
        return ReResolve(wait_s=0.0)  # nothing is wrong: signed addresses live for minutes, files for hours
    # Never sooner than asked; up to a second later, so that all connections do not come back at once.
    wait_s = _backoff(attempt, jitter, patience) if asked_s is None else asked_s + jitter
    if reason in _SUSPECT or reason is Reason.EXPIRED:
        return ReResolve(wait_s=wait_s)
    return Again(wait_s=wait_s)


def _worth_asking_again(status: int | None) -> bool:
    if status is None:
        return False
    return status in _AGAIN_BELOW_500 or (500 <= status <= 599 and status not in _NEVER_FROM_500)


def _backoff(attempt: int, jitter: float, patience: Patience) -> float:
    """Return a wait by capped exponential backoff with full jitter.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): full jitter needs the fewest calls.
    """
    doublings = min(max(attempt - 1, 0), 32)  # a float stays a float
    return jitter * min(patience.most_wait_s, patience.first_wait_s * 2.0**doublings)


# `"api";r=0;t=55`; one field may hold several policies. Source: draft-ietf-httpapi-ratelimit-headers-09;
# huggingface_hub 2.4.0 `utils/_http.py::_RATELIMIT_REGEX`.
_RATE_LIMIT = re.compile(r'"([^"]{0,100})"\s*;\s*r\s*=\s*([0-9]{1,12})\s*;\s*t\s*=\s*([0-9]{1,9})')
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a server still grants: `left` requests until `reset_s` seconds have passed."""

    name: str
    left: int
    reset_s: int


def parse_quotas(field: str) -> tuple[Quota, ...]:
    """Return the quotas of a `RateLimit` header field; what is none is passed over."""
    found = _RATE_LIMIT.findall(field)
    return tuple(Quota(name=name, left=int(left), reset_s=int(reset)) for name, left, reset in found)


def parse_wait(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Return how many seconds the server asks us to wait, or None where it does not say.

    An empty quota in `RateLimit` goes before `Retry-After`; quotas that are not empty ask for nothing, since the
    Hub sends that header with every answer.

    Args:
        headers: of the response; names in any case.
        now_s: Unix time, for `Retry-After` as a date.

    Source: RFC 9110 §10.2.3 (seconds or a date).
    """
    lower = {name.lower(): value for name, value in headers.items()}
    resets = [quota.reset_s for quota in parse_quotas(lower.get("ratelimit", "")) if quota.left == 0]
    if resets:
        return float(max(resets))
    value = lower.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        from email.utils import parsedate_tz  # a date is rare, and this takes 20 ms to import

        date = parsedate_tz(value) if value else None
        return None if date is None else max(0.0, timegm(date[:9]) - (date[9] or 0) - now_s)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
