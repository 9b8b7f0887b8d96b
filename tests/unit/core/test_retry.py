"""What follows a failure."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.retry import (
    PATIENT,
    Again,
    Failure,
    OneStream,
    Patience,
    Reason,
    ReResolve,
    Stop,
    Verdict,
    decide,
    parse_wait,
)


def after(reason: Reason, *, status: int | None = None, asked_s: float | None = None, attempt: int = 1) -> Verdict:
    failure = Failure(reason=reason, status=status, retry_after_s=asked_s)
    return decide(failure, attempt=attempt, elapsed_s=0.0, jitter=0.5)


@pytest.mark.parametrize(
    "reason", [Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.RESET, Reason.PROXY, Reason.SHORT_BODY]
)
def test_what_the_line_did_is_tried_again(reason: Reason) -> None:
    """Lines come back: also names that did not resolve while a laptop woke up."""
    assert Again(wait_s=0.25) == after(reason)
    assert Again(wait_s=2.0) == after(reason, attempt=4)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.TLS,
        Reason.PROXY_AUTH,
        Reason.CONTRADICTED,
        Reason.DENIED,
        Reason.ABSENT,
        Reason.REFUSED,
        Reason.REDIRECT_LOOP,
        Reason.BAD_REDIRECT,
    ],
)
def test_what_asking_again_cannot_help_stops_at_once(reason: Reason) -> None:
    """A certificate, a password or a licence is not there the next second either."""
    assert Stop(why="final") == after(reason)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
def test_statuses_that_pass(status: int) -> None:
    """Overload and broken gateways."""
    assert Again(wait_s=0.25) == after(Reason.BAD_STATUS, status=status)


@pytest.mark.parametrize("status", [400, 418, 501, 505, 511, None])
def test_statuses_that_stay(status: int | None) -> None:
    """The server means it."""
    assert Stop(why="final") == after(Reason.BAD_STATUS, status=status)


def test_a_server_without_ranges_is_read_in_one_stream() -> None:
    """Asking again would get the whole file again."""
    assert OneStream() == after(Reason.RANGE_IGNORED)


def test_an_expired_address_is_renewed_at_once_and_then_politely() -> None:
    """Signed addresses live shorter than large files take; an endpoint that signs only expired ones is broken."""
    assert ReResolve(wait_s=0.0) == after(Reason.EXPIRED)
    assert ReResolve(wait_s=0.5) == after(Reason.EXPIRED, attempt=2)
    assert Stop(why="exhausted") == after(Reason.EXPIRED, attempt=PATIENT.attempts)


@pytest.mark.parametrize(
    "reason", [Reason.WRONG_RANGE, Reason.REMOTE_CHANGED, Reason.ENCODED, Reason.NOT_THE_FILE, Reason.PROTOCOL]
)
def test_wrong_answers_get_a_fresh_address_and_less_patience(reason: Reason) -> None:
    """Another node of a CDN may be sane; a captive portal will not be."""
    assert ReResolve(wait_s=0.25) == after(reason)
    assert Stop(why="exhausted") == after(reason, attempt=PATIENT.suspect_attempts)


def test_the_server_says_when_to_come_back() -> None:
    """Sooner would be refused again, and all connections at the same instant, too."""
    assert Again(wait_s=55.5) == after(Reason.BAD_STATUS, status=429, asked_s=55.0)
    assert Again(wait_s=600.5) == after(Reason.BAD_STATUS, status=503, asked_s=600.0)
    assert Stop(why="wait_too_long") == after(Reason.BAD_STATUS, status=429, asked_s=600.1)


def test_an_empty_quota_is_waited_for_by_many_connections() -> None:
    """16 connections meet the same 429; that is one event, not 16 failures."""
    assert Again(wait_s=55.5) == after(Reason.BAD_STATUS, status=429, asked_s=55.0, attempt=16)
    assert Stop(why="exhausted") == after(Reason.BAD_STATUS, status=503, asked_s=55.0, attempt=16)


def test_patience_ends() -> None:
    """By count and by time; one attempt means none again."""
    failure = Failure(reason=Reason.RESET)
    assert Stop(why="exhausted") == decide(failure, attempt=8, elapsed_s=0.0, jitter=0.0)
    assert Stop(why="exhausted") == decide(failure, attempt=1, elapsed_s=900.0, jitter=0.0)
    once = Patience(attempts=1)
    for reason in (Reason.RESET, Reason.PROTOCOL, Reason.EXPIRED):
        assert Stop(why="exhausted") == decide(
            Failure(reason=reason), attempt=1, elapsed_s=0.0, jitter=0.0, patience=once
        )


@given(
    reason=st.sampled_from(Reason),
    status=st.integers(100, 999) | st.none(),
    asked_s=st.floats(0, 1e9) | st.none(),
    attempt=st.integers(1, 10_000),
    elapsed_s=st.floats(0, 1e9),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_every_wait_is_bounded_and_every_loop_ends(
    *, reason: Reason, status: int | None, asked_s: float | None, attempt: int, elapsed_s: float, jitter: float
) -> None:
    """No answer of a server can keep us waiting or trying for ever."""
    failure = Failure(reason=reason, status=status, retry_after_s=asked_s)
    verdict = decide(failure, attempt=attempt, elapsed_s=elapsed_s, jitter=jitter)
    if isinstance(verdict, Again | ReResolve):
        assert (asked_s or 0.0) <= verdict.wait_s <= 601.0 or reason is Reason.EXPIRED
        assert elapsed_s < 900.0
        assert attempt < 8 or (status == 429 and asked_s is not None)


def test_a_failure_tells_itself_in_one_line_and_in_json() -> None:
    """For people, and for `--json`."""
    failure = Failure(reason=Reason.BAD_STATUS, status=503, detail="bad gateway", host="hub.example", request_id="r-1")
    assert failure.summary == "HTTP 503: bad gateway (`hub.example`, request id `r-1`)"
    assert Failure(reason=Reason.RESET).summary == "the connection broke"
    assert json.loads(json.dumps(failure.as_json())) == {
        "reason": "bad_status",
        "status": 503,
        "code": None,
        "retry_after_s": None,
        "detail": "bad gateway",
        "request_id": "r-1",
        "host": "hub.example",
    }


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=12;t=55'}, None),
        ({"RateLimit": '"api" ; r = 0 ; t = 55', "Retry-After": "3"}, 55.0),
        ({"RateLimit": '"api";r=7;t=55', "Retry-After": "3"}, 3.0),
        ({"RateLimit": '"a";r=0;t=5, "b";r=0;t=9, "c";r=1;t=99'}, 9.0),
        ({"RateLimit": "nonsense"}, None),
        ({"retry-after": " 120 "}, 120.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"Retry-After": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"Retry-After": "Wed, 99 Foo 2015 07:28:00 GMT"}, None),
    ],
)
def test_waits_that_servers_ask_for(headers: dict[str, str], expected: float | None) -> None:
    """The Hub's quota header, and both forms of the standard's."""
    assert expected == parse_wait(headers, now_s=NOW)


@given(st.dictionaries(st.sampled_from(["RateLimit", "Retry-After"]), st.text(max_size=40)))
def test_no_header_breaks_the_reading(headers: dict[str, str]) -> None:
    """They come from strangers."""
    wait_s = parse_wait(headers, now_s=NOW)
    assert wait_s is None or wait_s >= 0.0
