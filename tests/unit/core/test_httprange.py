"""Part of a file: RFC 9110's rules, one example each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.httprange import Part, asked_part

ETAG = '"abc"'


def ask(wanted: str | None, *, if_range: str | None = None, none: str | None = None, size: int = 100) -> Part:
    return asked_part(size, ETAG, wanted=wanted, if_range=if_range, if_none_match=none)


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (None, Part(status=200, stop=100)),
        ("bytes=0-9", Part(status=206, start=0, stop=10)),
        ("bytes=90-", Part(status=206, start=90, stop=100)),
        ("bytes=90-1000", Part(status=206, start=90, stop=100)),
        ("bytes=-10", Part(status=206, start=90, stop=100)),
        ("bytes=-1000", Part(status=206, start=0, stop=100)),
        ("bytes=-0", Part(status=416)),
        ("bytes=100-", Part(status=416)),
        ("bytes=9-5", Part(status=200, stop=100)),
        ("bytes=0-1,5-6", Part(status=200, stop=100)),
        ("lines=0-1", Part(status=200, stop=100)),
        ("bytes=-", Part(status=200, stop=100)),
        ("bytes=٣-٤", Part(status=200, stop=100)),
        ("bytes=" + "9" * 5000 + "-", Part(status=200, stop=100)),
    ],
)
def test_a_range_is_answered_as_the_rfc_has_it(wanted: str | None, part: Part) -> None:
    assert part == ask(wanted)


def test_a_range_of_another_version_is_answered_with_the_whole() -> None:
    """Bytes of two versions in one file are what `If-Range` exists to prevent."""
    assert Part(status=206, start=1, stop=2) == ask("bytes=1-1", if_range=ETAG)
    for other in ('"def"', 'W/"abc"', "Wed, 21 Oct 2015 07:28:00 GMT", ""):
        assert Part(status=200, stop=100) == ask("bytes=1-1", if_range=other)


def test_what_the_client_has_is_not_sent_again() -> None:
    for tags in (ETAG, f'"x", {ETAG}', f"W/{ETAG}", "*"):
        assert Part(status=304) == ask("bytes=0-9", none=tags)
    assert Part(status=200, stop=100) == ask(None, none='"x"')


@given(st.text(alphabet="bytes=-0123456789, ", max_size=30), st.integers(0, 200))
def test_an_answered_part_lies_within_the_file(wanted: str, size: int) -> None:
    part = ask(wanted, size=size)
    assert 0 <= part.start <= part.stop <= size
    assert part.status != 206 or part.start < part.stop
