"""What an LFS server says is a stranger's word: addresses, headers, sizes, errors a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fetchverify.core.lfsapi import Action, batch_body, read_batch
from fetchverify.core.manifest import RemoteFile, RepoPath
from fetchverify.core.pointer import Pointer
from fetchverify.core.retry import Failure, Reason

A, B = "a" * 64, "b" * 64
FILES = [Pointer(sha256=oid, size=5).file(RepoPath(oid[0]), "0" * 40) for oid in (A, B)]


def read(*objects: Any, files: list[RemoteFile] = FILES) -> dict[str, Any]:
    return dict(read_batch(json.dumps({"objects": objects}).encode(), files, now_s=1000.0))


def with_action(**action: Any) -> Any:
    told = {"oid": A, "size": 5, "actions": {"download": {"href": "https://h/x", **action}}}
    return read(told)[A]


def test_the_request_names_objects_and_branch() -> None:
    asked = json.loads(batch_body(FILES, "refs/heads/main"))
    assert ("download", {"name": "refs/heads/main"}) == (asked["operation"], asked["ref"])
    assert [{"oid": A, "size": 5}, {"oid": B, "size": 5}] == asked["objects"]
    assert "ref" not in json.loads(batch_body(FILES))


def test_each_object_has_its_action_or_its_error() -> None:
    told = read(
        {
            "oid": A,
            "size": 5,
            "authenticated": True,
            "actions": {"download": {"href": "https://h/x", "expires_in": 60}},
        },
        {"oid": B, "size": 5, "error": {"code": 404, "message": "gone\x1b[31m"}},
        {"oid": "c" * 64, "size": 1},
    )
    assert Action(href="https://h/x", expires_s=1060.0, authenticated=True) == told[A]
    detail = "the LFS server refuses it (404): gone\\x1b[31m"
    assert Failure(reason=Reason.ABSENT, status=404, detail=detail) == told[B]
    assert {A, B} == set(told)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (403, Reason.DENIED),
        (404, Reason.ABSENT),
        (410, Reason.ABSENT),
        (422, Reason.REFUSED),
        (429, Reason.BAD_STATUS),
        (503, Reason.BAD_STATUS),
        ("x", Reason.REFUSED),
        (True, Reason.REFUSED),
        (None, Reason.REFUSED),
    ],
)
def test_an_error_is_one_of_ours(code: Any, reason: Reason) -> None:
    assert reason is read({"oid": A, "size": 5, "error": {"code": code, "message": "x"}})[A].reason


def test_what_is_not_mentioned_is_not_there() -> None:
    assert [Reason.ABSENT, Reason.ABSENT] == [one.reason for one in read().values()]
    assert Reason.ABSENT is read({"oid": A, "size": 5})[A].reason
    assert Reason.CONTRADICTED is read({"oid": A, "size": 6, "actions": {}})[A].reason


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "//h/x",
        "https://user:pw@h/x",
        "https://h/x\r\nHost: evil",
        "https://h/ x",
        "https://",
        "https://h/" + "x" * 20_000,
        7,
        None,
        "https://h:0/",
        "https://[/",
    ],
)
def test_an_address_that_must_not_be_asked_is_not(href: Any) -> None:
    assert Reason.BAD_REDIRECT is with_action(href=href).reason


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"A": 1},
        {"A\r\nB": "x"},
        {"": "x"},
        {"A": "x\r\nB: y"},
        {"A": "x" * 20_000},
        {f"A{number}": "x" for number in range(40)},
        {"A": "\u20ac"},
    ],
)
def test_headers_that_must_not_be_sent_are_not(header: Any) -> None:
    assert Reason.BAD_REDIRECT is with_action(header=header).reason


def test_headers_that_frame_the_message_stay_ours() -> None:
    header = {"Authorization": "Basic x", "Range": "bytes=0-", "HOST": "evil", "Content-Length": "5", "X-A": "y"}
    assert {"Authorization": "Basic x", "X-A": "y"} == with_action(header=header).headers


@pytest.mark.parametrize(
    ("action", "expires_s"),
    [
        ({}, None),
        ({"expires_in": 60, "expires_at": "2016-11-10T15:29:07Z"}, 1060.0),
        ({"expires_in": 0, "expires_at": "1970-01-01T00:20:00Z"}, 1200.0),
        ({"expires_at": "soon"}, None),
        ({"expires_at": 5}, None),
        ({"expires_in": True}, None),
    ],
)
def test_an_action_may_expire(action: Any, expires_s: float | None) -> None:
    assert expires_s == with_action(**action).expires_s


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"objects": {}}', b'{"objects": [], "transfer": "ssh"}', b"\xff"]
)
def test_what_is_no_answer_raises(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_batch(body, FILES, now_s=0.0)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Action(href="https://h/?sig=secret", headers={"Authorization": "secret"}))
