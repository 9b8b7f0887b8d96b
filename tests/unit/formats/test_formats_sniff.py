from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.diagnosis.facts import Content, Pointer, Sniffed
from fetchverify.formats.sniff import sniff
from fetchverify.formats.source import Bytes
from tests.unit.formats import damage


def a_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a/data.pkl", b"")
    return out.getvalue()


def a_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


PLAIN: tuple[object, ...] = (1, "a", (), [], None, 1 << 70, 0.5)
KINDS = [
    (b"", Content.EMPTY),
    (b"\0" * 100, Content.ZEROS),
    (damage.POINTER, Content.LFS_POINTER),
    (damage.good(), Content.SAFETENSORS),
    (b"\r\n <html lang=en>", Content.HTML),
    (b'<?xml version="1.0"?><Error/>', Content.XML),
    (b'{"error":"x"}', Content.JSON),
    (b"Entry not found", Content.MESSAGE),
    (b"Invalid username or password.", Content.MESSAGE),
    (b"a poem about nothing", Content.TEXT),
    ("\ufeffa poem".encode(), Content.BOM_TEXT),
    ("a poem".encode("utf-16"), Content.BOM_TEXT),
    (gzip.compress(b"x", mtime=0), Content.GZIP),
    (a_zip(), Content.ZIP),
    (a_tar(), Content.TAR),
    (b"GGUF\3\0\0\0", Content.GGUF),
    (b"#!/bin/sh\n", Content.PROGRAM),
    (b"\xfe\xed\xfa\xce\1\2\3", Content.UNKNOWN),
    *((pickle.dumps({"a": [1]}, protocol), Content.PICKLE) for protocol in range(2, 6)),
    *((pickle.dumps(value, 2), Content.PICKLE) for value in PLAIN),
]


@pytest.mark.parametrize(("data", "content"), KINDS, ids=lambda value: str(value)[:24])
def test_content_is_told_by_its_first_bytes(data: bytes, content: Content) -> None:
    assert content == sniff(Bytes(data)).content


def test_a_pointer_gives_what_it_promises() -> None:
    promised = Pointer(sha256="ab" * 32, size=4976698672)
    assert Sniffed(content=Content.LFS_POINTER, pointer=promised) == sniff(Bytes(damage.POINTER))
    assert promised == sniff(Bytes(damage.POINTER.replace(b"\n", b"\r\n"))).pointer


def test_a_page_gives_its_title() -> None:
    assert "Sign in" == sniff(Bytes(b"<html><head><title>\n Sign in</title>")).words


def test_text_cut_within_a_character_is_still_text() -> None:
    assert Content.TEXT == sniff(Bytes("ü".encode() * 400)).content
    assert Content.TEXT == sniff(Bytes(b"a" + "ü".encode() * 400)).content


@given(st.binary(max_size=700))
def test_any_bytes_are_something(data: bytes) -> None:
    assert sniff(Bytes(data)).content in Content
