"""LFS pointers: only what git-lfs itself would read as one, whoever wrote it."""

from __future__ import annotations

import pytest

from fetchverify.core.pointer import Pointer, parse_pointer, pointer_blob_id, pointer_text

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
TEXT = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n".encode()


def test_a_pointer_names_sha256_and_size() -> None:
    assert Pointer(sha256=OID, size=12345) == parse_pointer(TEXT)
    assert TEXT == pointer_text(OID, 12345)
    # `printf … | git hash-object --stdin`
    assert "60c8d8ab2adcf57a391163a7eeb0cdb8bf348e44" == pointer_blob_id(OID, 12345)


def test_line_ends_of_windows_and_old_versions_are_read() -> None:
    assert Pointer(sha256=OID, size=12345) == parse_pointer(TEXT.replace(b"\n", b"\r\n"))
    assert Pointer(sha256=OID, size=12345) == parse_pointer(TEXT.removesuffix(b"\n"))
    old = TEXT.replace(b"https://git-lfs.github.com/spec/v1", b"https://hawser.github.com/spec/v1")
    assert Pointer(sha256=OID, size=12345) == parse_pointer(old)


def test_an_extension_is_told() -> None:
    text = TEXT.replace(b"oid ", b"ext-0-foo sha256:" + b"a" * 64 + b"\noid ")
    assert Pointer(sha256=OID, size=12345, extended=True) == parse_pointer(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"version ",
        TEXT[:-20],
        TEXT + b"\n",
        TEXT + b"size 1\n",
        TEXT + b"x" * 1024,
        TEXT.replace(b"sha256:", b"sha512:"),
        TEXT.replace(b"12345", b"-1"),
        TEXT.replace(b"12345", b"1e9"),
        TEXT.replace(b"12345", b"9" * 30),
        TEXT.replace(b"git-lfs.github.com", b"example.org"),
        TEXT.replace(OID.encode(), OID.upper().encode()),
        TEXT.replace(b"oid ", b"run rm\noid "),
        b"\n" + TEXT,
    ],
)
def test_anything_else_is_none(text: bytes) -> None:
    assert parse_pointer(text) is None


def test_absurd_sizes_are_read_so_that_they_can_be_refused() -> None:
    pointer = parse_pointer(TEXT.replace(b"12345", b"9999999999999999999"))
    assert pointer is not None
    assert 9999999999999999999 == pointer.size
