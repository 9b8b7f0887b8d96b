"""What a name or the first bytes of a file say."""

from __future__ import annotations

import pytest

from fetchverify.core.facts import Answer, How, digest_of_name, is_page
from fetchverify.core.manifest import Digest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ab" * 32, Digest(algo="sha256", hex="ab" * 32)),
        ("ab" * 20, Digest(algo="git-sha1", hex="ab" * 20)),
        ("AB" * 32, None),
        ("ab" * 31 + "a\n", None),
        ("ab" * 32 + "\n", None),
        ("ab" * 16, None),
        ("ab" * 31 + "zz", None),
        ("\u0661" * 40, None),
        (f"{'ab' * 32}.7f2a.incomplete", None),
        ("", None),
    ],
)
def test_only_a_digest_is_a_digest(name: str, expected: Digest | None) -> None:
    """A wrong yes would hold a file against a promise that nobody made."""
    assert expected == digest_of_name(name)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"<!DOCTYPE html><html>", True),
        (b"\xef\xbb\xbf\r\n  <!doctype HTML>", True),
        (b"<html lang='en'>", True),
        (b"<!-- a proxy\nsays no -->\n<html>", True),
        (b"<head><title>", True),
        (b"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code>", True),
        (b"<?xml version='1.0'?><svg/>", False),
        (b"# A card\n<html>", False),
        (b'{"a": "<html>"}', False),
        (b"<!-- " * 200, False),
        (b"", False),
    ],
)
def test_a_web_page_is_told_by_its_beginning(head: bytes, expected: bool) -> None:
    assert expected is is_page(head)


def test_what_counts_as_good() -> None:
    """Neither a file that was not hashed, nor one that changed meanwhile."""
    assert {How.HASHED, How.LEDGER, How.BLOCKS} == {how for how in How if Answer(how).good}
