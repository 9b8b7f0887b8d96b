"""Small texts beside a model: JSON that cannot take the memory, and the plain part of YAML that trainers write."""

from __future__ import annotations

import json
import re
from typing import Any, TypeAlias

from fetchverify.formats.source import Malformed, Source

MOST_JSON_BYTES = 12 << 20
_MOST_VALUES = 400_000
_MOST_YAML_BYTES = 1 << 20
_MOST_SUMS_BYTES = 1 << 20

Scalar: TypeAlias = str | int | float | bool | None


_SUM = re.compile(r"([0-9a-f]{32})[ \t]+\*?([^/\\\x00-\x1f]{1,200})")


def read_md5s(source: Source) -> dict[str, str]:
    """Return the MD5s by name of Meta's `checklist.chk`, as md5sum writes them; lines of another form are left out."""
    text = source.read(0, _MOST_SUMS_BYTES).decode("utf-8", "replace")
    return {found[2]: found[1] for line in text.splitlines() if (found := _SUM.fullmatch(line.strip()))}


def read_json(source: Source) -> Any:
    """Return the value.

    Raises:
        Malformed: it is no JSON, or larger than is looked at.
    """
    if source.size > MOST_JSON_BYTES:
        raise Malformed("FV125", f"the file has {source.size:,} bytes")
    data = source.read(0, source.size)
    # Each value is followed by one of these: an empty list of two bytes would become fifty-six.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise Malformed("FV125", f"the file holds more than {_MOST_VALUES:,} values")
    if not any(data):
        raise Malformed("FV110", "the file is zeros")
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError:
        raise Malformed("FV121", "it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Malformed("FV121", f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise Malformed("FV121", "a number or a nesting of absurd length") from None


_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.-]+) *:(?: +(?P<value>.*?))?\s*")


def read_flat_yaml(source: Source) -> dict[str, Scalar | dict[str, Scalar]]:
    """Return keys with scalars, and one level of keys below a key; lists and deeper levels are passed over.

    Enough for what trainers write of themselves; a YAML library is no dependency of ours.

    Raises:
        Malformed: no line of it is `key: value`.
    """
    if source.size > _MOST_YAML_BYTES:
        raise Malformed("FV125", f"the file has {source.size:,} bytes")
    text = source.read(0, source.size).decode("utf-8", "replace")
    top: dict[str, Scalar | dict[str, Scalar]] = {}
    inner: dict[str, Scalar] = {}
    width = 0
    for line in text.splitlines():
        found = _LINE.fullmatch(re.sub(r"(^|\s)#.*", "", line))
        if found is None:
            continue
        value = _scalar(found["value"] or "")
        if not found["indent"]:
            inner, width = {}, 0
            top[found["key"]] = inner if not found["value"] else value
        elif not width or len(found["indent"]) == width:
            width = len(found["indent"])
            inner[found["key"]] = value
    if not top:
        raise Malformed("FV416", "no line of it is `key: value`")
    return top


def _scalar(text: str) -> Scalar:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    lowered = text.lower()
    if lowered in {"true", "yes", "on"}:
        return True
    if lowered in {"false", "no", "off"}:
        return False
    if lowered in {"", "null", "~", "none"}:
        return None
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    return text
