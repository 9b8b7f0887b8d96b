"""What a file is by its first bytes; whether that is what its name promises is left to the rules."""

from __future__ import annotations

import re

from fetchverify.core.diagnosis.facts import Content, Pointer, Sniffed
from fetchverify.formats.source import Source

HEAD_BYTES = 512

_MAGIC = (
    (b"\x1f\x8b", Content.GZIP),
    (b"\x28\xb5\x2f\xfd", Content.ZSTD),
    (b"BZh", Content.BZIP2),
    (b"\xfd7zXZ\x00", Content.XZ),
    (b"7z\xbc\xaf\x27\x1c", Content.SEVEN_ZIP),
    (b"PK\x03\x04", Content.ZIP),
    (b"PK\x05\x06", Content.ZIP),
    (b"GGUF", Content.GGUF),
    (b"lmgg", Content.GGML),
    (b"tjgg", Content.GGML),
    (b"fmgg", Content.GGML),
    (b"\x89HDF\r\n\x1a\n", Content.HDF5),
    (b"\x93NUMPY", Content.NUMPY),
    (b"\x89PNG", Content.PICTURE),
    (b"\xff\xd8\xff", Content.PICTURE),
    (b"\x7fELF", Content.PROGRAM),
    (b"#!", Content.PROGRAM),
)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_LFS = b"version https://git-lfs.github.com/spec/"
_OLD_LFS = b"version https://hawser.github.com/spec/"
# What a script wrote into a file instead of what it asked for. The Hub says "Entry not found", "Access to model ...",
# "Invalid username or password."; its CDN and proxies say the rest.
_MESSAGE = re.compile(
    rb"(?:entry|repository|file|page|not) ?not found|access to .{1,200} is restricted|invalid (?:username|credentials)"
    rb"|unauthorized|forbidden|too many requests|internal (?:server )?error|bad gateway|gateway time-?out"
    rb"|service unavailable|access denied|not found|error\b",
    re.IGNORECASE,
)
_TAG = re.compile(r"<[^>]*>")


def sniff(source: Source) -> Sniffed:
    """Return what the first bytes are."""
    return sniff_head(source.read(0, min(source.size, HEAD_BYTES)), source.size)


def sniff_head(head: bytes, size: int) -> Sniffed:
    """Return what `head`, the beginning of a file of `size` bytes, is."""
    if size == 0 or not head:
        return Sniffed(content=Content.EMPTY)
    if not any(head):
        return Sniffed(content=Content.ZEROS)
    if head.startswith((_LFS, _OLD_LFS)):
        return Sniffed(content=Content.LFS_POINTER, pointer=_lfs_pointer(head))
    if head.startswith(b"# xet version"):
        return Sniffed(content=Content.XET_POINTER, pointer=_xet_pointer(head))
    for magic, content in _MAGIC:
        if head.startswith(magic):
            return Sniffed(content=content)
    if head[257:262] == b"ustar":
        return Sniffed(content=Content.TAR)
    if _is_pickle(head):
        return Sniffed(content=Content.PICKLE)
    # Before text: a header's length may be bytes that are text too.
    if len(head) >= 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 40:
        return Sniffed(content=Content.SAFETENSORS)
    return _text(head) or Sniffed(content=Content.UNKNOWN)


def _is_pickle(head: bytes) -> bool:
    """Tell a binary pickle: protocol 2 to 5, then an opcode that can begin one."""
    return len(head) >= 3 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2:3] in b"\x95}](c\x8aX\x8cKJ)GNUT"


def _text(head: bytes) -> Sniffed | None:
    bom = head.startswith(_BOMS)
    if bom and head[:2] in _BOMS:
        text = head[: len(head) & ~1].decode("utf-16", "replace")
    else:
        # The last character may be cut.
        try:
            text = (head[3:] if bom else head).decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore")
        except UnicodeDecodeError:
            return None
    if any(char < " " and char not in "\t\n\r\f\x1b" for char in text):
        return None
    return Sniffed(content=_kind_of_text(text.lstrip("\ufeff"), bom=bom), words=_words(text))


def _kind_of_text(text: str, *, bom: bool) -> Content:
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<!--", "<title")):
        return Content.HTML
    if start.startswith(("<?xml", "<error", "<message")):
        return Content.XML
    if start.startswith("<"):
        return Content.HTML if "html" in start else Content.XML
    if bom:
        return Content.BOM_TEXT
    if start.startswith(("{", "[")):
        return Content.JSON
    return Content.MESSAGE if len(text) < HEAD_BYTES and _MESSAGE.search(text.encode()) else Content.TEXT


def _words(text: str) -> str:
    """Return the first words a person would read."""
    title = re.search(r"<title>([^<]{1,200})", text, re.IGNORECASE)
    plain = title[1] if title else _TAG.sub(" ", text)
    return " ".join(plain.split())[:120]


def _lfs_pointer(head: bytes) -> Pointer:
    oid = re.search(rb"^oid sha256:([0-9a-f]{64})\s*$", head, re.MULTILINE)
    size = re.search(rb"^size (\d{1,15})\s*$", head, re.MULTILINE)
    return Pointer(sha256=oid[1].decode() if oid else None, size=int(size[1]) if size else None)


def _xet_pointer(head: bytes) -> Pointer:
    size = re.search(rb"^filesize\s*=\s*(\d{1,15})\s*$", head, re.MULTILINE)
    return Pointer(sha256=None, size=int(size[1]) if size else None)
