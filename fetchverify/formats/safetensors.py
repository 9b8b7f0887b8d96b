"""Headers of safetensors files: what they say, and each rule they break; the numbers behind them are not read.

The parser is our own because `json` would spend thirty bytes of memory for one of a hostile header, and keeps the last
of two equal names in silence. Source: safetensors 0.8.0 `tensor.rs` (`read_metadata`, `validate`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from fetchverify.core.diagnosis.facts import DTYPE_BITS, Flaw, Shape, Tensor
from fetchverify.formats.source import Malformed, Source, read_exactly

# The library's own bound.
LIBRARY_MOST_HEADER_BYTES = 100_000_000
# Ours: with the tensors made of it, it stays below 64 MiB. The largest header seen in the field has 6 MB.
MOST_HEADER_BYTES = 16 << 20
MOST_TENSORS = 100_000
_MOST_ENTRY_BYTES = 4096
_MOST_SIDE = 1 << 50

_NAME = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_KEY = re.compile(rb"[ \t\r\n]*+" + _NAME + rb"[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_STRING = re.compile(rb"[ \t\r\n]*+" + _NAME, re.DOTALL)
_ENTRY = re.compile(rb"\{([^{}]{0,%d}+)\}" % _MOST_ENTRY_BYTES)
_USUAL = re.compile(rb'"dtype":"([A-Z0-9_]{1,16})","shape":\[([\d,]*)\],"data_offsets":\[(\d{1,18}),(\d{1,18})\]')
_BLANKS = re.compile(rb"[ \t\r\n]*+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a safetensors header says.

    Attributes:
        tensors: in the order of the header; `start` and `stop` are bytes from the beginning of the file.
        data_start: where the numbers begin.
        flaws: what is wrong though the header can be read.
    """

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]
    data_start: int
    flaws: tuple[Flaw, ...]

    @property
    def promised_size(self) -> int:
        """Return the size of the whole file, in bytes."""
        return max((tensor.stop for tensor in self.tensors), default=self.data_start)


def read_header(source: Source) -> Header:
    """Return the header.

    Raises:
        Malformed: there is none, or it cannot be read.
    """
    if source.size < 8:
        raise Malformed("FV106", f"the file has {source.size} of the 8 bytes that every safetensors file begins with")
    head = source.read(0, 8)
    if len(head) < 8:
        raise Malformed("FV106", f"only {len(head)} bytes can be read")
    length = int.from_bytes(head, "little")
    if length > LIBRARY_MOST_HEADER_BYTES:
        raise Malformed("FV111", f"the header claims {length:,} bytes, more than any may have")
    if length < 2:
        raise Malformed("FV110" if length == 0 else "FV111", f"the header claims {length} bytes")
    if length > MOST_HEADER_BYTES:
        raise Malformed("FV125", f"the header has {length:,} bytes; more than {MOST_HEADER_BYTES:,} are not looked at")
    raw = read_exactly(source, 8, 8 + length, what="the header")
    return _judge(*_parse(raw, 8 + length), data_start=8 + length, size=source.size)


def _parse(raw: bytes, data_start: int) -> tuple[list[Tensor], dict[str, str], list[Flaw]]:
    if not any(raw[:64]):
        raise Malformed("FV110", "the header is zeros")
    if raw[:1] != b"{":
        raise Malformed("FV111", "the header does not begin with `{`")
    tensors: list[Tensor] = []
    metadata: dict[str, str] = {}
    flaws: list[Flaw] = []
    names: set[str] = set()
    at, more = _is_there_more(raw, 1, first=True)
    while more:
        name, at = _name(_KEY, raw, at)
        if name == "__metadata__":
            at = _metadata(raw, at, metadata)
        else:
            found = _ENTRY.match(raw, at)
            if found is None:
                raise Malformed("FV111", f"the entry of `{_short(name)}` at byte {8 + at:,} cannot be read")
            tensors.append(_tensor(name, found[1], data_start))
            at = found.end()
        if name in names and not flaws:
            flaws.append(Flaw("FV115", f"`{_short(name)}` is there twice"))
        names.add(name)
        if len(tensors) > MOST_TENSORS:
            raise Malformed("FV125", f"the header names more than {MOST_TENSORS:,} tensors")
        at, more = _is_there_more(raw, at)
    if raw[at:].strip(b" "):
        raise Malformed("FV111", f"the header goes on after its end, at byte {8 + at:,}")
    return tensors, metadata, flaws


def _is_there_more(raw: bytes, at: int, *, first: bool = False) -> tuple[int, bool]:
    """Step over `,` or `}`; at the beginning of an object over `}` alone."""
    at = _skip_blanks(raw, at)
    mark = raw[at : at + 1]
    if mark == b"}":
        return at + 1, False
    if first:
        return at, True
    if mark == b",":
        return at + 1, True
    raise Malformed("FV111", f"the header is no JSON at byte {8 + at:,}")


def _skip_blanks(raw: bytes, at: int) -> int:
    found = _BLANKS.match(raw, at)
    assert found is not None  # it matches nothing too
    return found.end()


def _name(pattern: re.Pattern[bytes], raw: bytes, at: int) -> tuple[str, int]:
    found = pattern.match(raw, at)
    if found is None:
        raise Malformed("FV111", f"the header is no JSON at byte {8 + at:,}")
    text = found[1]
    try:
        # As the library: strict UTF-8, and no bare control characters.
        value = json.loads(b'"%s"' % text) if b"\\" in text else text.decode()
    except (ValueError, RecursionError):
        raise Malformed("FV111", f"the header is no JSON at byte {8 + at:,}") from None
    if not isinstance(value, str) or (any(char < " " for char in value) and b"\\" not in text):
        raise Malformed("FV111", f"a name at byte {8 + at:,} holds control characters")
    return value, found.end()


def _metadata(raw: bytes, at: int, into: dict[str, str]) -> int:
    """Read the one entry that is no tensor: texts by name, nothing deeper."""
    at = _skip_blanks(raw, at)
    if raw[at : at + 1] != b"{":
        raise Malformed("FV111", "`__metadata__` is not an object")
    at, more = _is_there_more(raw, at + 1, first=True)
    entries = 0
    while more:
        entries += 1
        key, at = _name(_KEY, raw, at)
        into[key], at = _name(_STRING, raw, at)
        if entries > MOST_TENSORS:  # not what was kept of them: a million may have one name
            raise Malformed("FV125", f"`__metadata__` has more than {MOST_TENSORS:,} entries")
        at, more = _is_there_more(raw, at)
    return at


def _tensor(name: str, entry: bytes, data_start: int) -> Tensor:
    usual = _USUAL.fullmatch(entry)
    if usual is not None:
        try:
            shape = tuple(int(side) for side in usual[2].split(b",")) if usual[2] else ()
        except ValueError:
            raise _bad_entry(name) from None
        start, stop = int(usual[3]), int(usual[4])
        dtype = usual[1].decode()
    else:
        dtype, shape, start, stop = _unusual(name, entry)
    if len(shape) > 64 or any(side > _MOST_SIDE for side in shape):
        raise Malformed("FV113", f"`{_short(name)}` has an impossible shape")
    return Tensor(name, dtype, shape, data_start + start, data_start + stop)


def _unusual(name: str, entry: bytes) -> tuple[str, Shape, int, int]:
    """Read an entry whose keys stand in another order, or with blanks between them."""
    try:
        value: Any = json.loads(b"{%s}" % entry)
    except (ValueError, RecursionError):
        raise _bad_entry(name) from None
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _is_whole(shape) or not _is_whole(offsets) or len(offsets) != 2:
        raise _bad_entry(name)
    return dtype, tuple(shape), offsets[0], offsets[1]


def _is_whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _bad_entry(name: str) -> Malformed:
    return Malformed("FV111", f"the entry of `{_short(name)}` is not dtype, shape and data_offsets")


def _judge(tensors: list[Tensor], metadata: dict[str, str], flaws: list[Flaw], *, data_start: int, size: int) -> Header:
    flaws += _flaws_of_tensors(tensors)
    flaws += _flaws_of_offsets(tensors, data_start)
    header = Header(tensors=tuple(tensors), metadata=metadata, data_start=data_start, flaws=())
    promised = header.promised_size
    if size < promised:
        flaws.append(Flaw("FV108", f"{size:,} of {promised:,} bytes are there, {promised - size:,} are missing"))
    elif size > promised:
        flaws.append(Flaw("FV109", f"{size - promised:,} bytes follow after byte {promised:,}, where the data ends"))
    return Header(tensors=tuple(tensors), metadata=metadata, data_start=data_start, flaws=tuple(flaws))


def _flaws_of_tensors(tensors: list[Tensor]) -> list[Flaw]:
    """Return the first wrong shape and the first unknown dtype."""
    found: dict[str, Flaw] = {}
    for tensor in tensors:
        bits = DTYPE_BITS.get(tensor.dtype)
        if bits is None:
            found.setdefault("FV114", Flaw("FV114", f"`{_short(tensor.name)}` has dtype `{tensor.dtype[:20]}`"))
        elif tensor.elements * bits != 8 * (tensor.stop - tensor.start):
            want = -(-tensor.elements * bits // 8)
            what = f"`{_short(tensor.name)}` of shape {list(tensor.shape)} and dtype {tensor.dtype}"
            has = tensor.stop - tensor.start
            found.setdefault("FV113", Flaw("FV113", f"{what} takes {want:,} bytes, the header gives it {has:,}"))
    return list(found.values())


def _flaws_of_offsets(tensors: list[Tensor], data_start: int) -> list[Flaw]:
    """Return the first place where the tensors do not lie end to end."""
    at = data_start
    for tensor in sorted(tensors, key=lambda one: (one.start, one.stop)):
        name = _short(tensor.name)
        if tensor.stop < tensor.start:
            return [Flaw("FV112", f"`{name}` ends at byte {tensor.stop:,}, before it begins at {tensor.start:,}")]
        if tensor.start < at:
            return [Flaw("FV112", f"`{name}` begins at byte {tensor.start:,}, inside the tensor before it")]
        if tensor.start > at:
            return [Flaw("FV112", f"nothing owns the {tensor.start - at:,} bytes before `{name}`")]
        at = tensor.stop
    return []


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:117]}..."
