"""Safetensors files made by hand, whole and broken, a name for each way."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any


def pack(header: object, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def good() -> bytes:
    """Two float tensors; numbers that are neither zero nor NaN."""
    data = struct.pack("<8f", *range(1, 9))
    return pack({"a": entry("F32", [2, 2], 0, 16), "b": entry("F32", [4], 16, 32)}, data)


def two(a: dict[str, Any], b: dict[str, Any], size: int = 32) -> bytes:
    return pack({"a": a, "b": b}, b"\1" * size)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4976698672\n"
A = entry("F32", [2, 2], 0, 16)

# Damage, and the code that names it; each row of the field notes on what breaks one file.
ONE_FILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "LFS pointer": (lambda: POINTER, "FV101"),
    "LFS pointer with CRLF": (lambda: POINTER.replace(b"\n", b"\r\n"), "FV101"),
    "Xet pointer": (lambda: b"# xet version 0\nfilesize = 12345\nhash = 'abc'\n", "FV101"),
    "HTML body": (lambda: b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "FV102"),
    "JSON body": (lambda: b'{"error":"Access to model org/name is restricted"}', "FV103"),
    "XML body": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "FV103"),
    "Entry not found": (lambda: b"Entry not found", "FV103"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + good(), "FV104"),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + b"\0" * 40, "FV105"),
    "pickle": (lambda: b"\x80\x02}q\x00." + b"\0" * 40, "FV105"),
    "byte order mark": (lambda: b"\xef\xbb\xbf" + good(), "FV111"),
    "header length over 100 MB": (lambda: struct.pack("<Q", 1 << 30) + good()[8:], "FV111"),
    "no byte": (lambda: b"", "FV106"),
    "7 bytes": (lambda: good()[:7], "FV106"),
    "cut in the header": (lambda: good()[:40], "FV107"),
    "cut in the data": (lambda: good()[:-5], "FV108"),
    "trailing bytes": (lambda: good() + b"\n", "FV109"),
    "doubled": (lambda: good() * 2, "FV109"),
    "CRLF": (lambda: good() + b"\r\r", "FV109"),
    "zeroed head": (lambda: b"\0" * 512 + b"\1" * 600, "FV110"),
    "zeroed header behind its length": (lambda: good()[:8] + b"\0" * 80 + good()[88:], "FV110"),
    "all zeros": (lambda: b"\0" * 4096, "FV110"),
    "overlap": (lambda: two(A, entry("F32", [4], 8, 24), 24), "FV112"),
    "gap": (lambda: two(A, entry("F32", [4], 20, 36), 36), "FV112"),
    "reversed offsets": (lambda: two(A, entry("F32", [4], 32, 16)), "FV112"),
    "shape does not match bytes": (lambda: two(A, entry("F32", [5], 16, 32)), "FV113"),
    "unknown dtype": (lambda: two(A, entry("F99", [4], 16, 32)), "FV114"),
    "duplicate key": (
        lambda: pack(b'{"a":%b,"a":%b}' % ((json.dumps(A, separators=(",", ":")).encode(),) * 2), b"\1" * 16),
        "FV115",
    ),
    "no tensor": (lambda: pack({}, b""), "FV309"),
    "tensors of shape [0]": (lambda: pack({"a": entry("F32", [0], 0, 0)}, b""), "FV308"),
}
# What the first bytes tell before any header is read.
SNIFFED = {"FV101", "FV102", "FV103", "FV104", "FV105"}
