"""Headers of GGUF files: metadata, tensors, and where the data ends. Source: ggml `docs/gguf.md`, gguf-py 0.19."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from fetchverify.core.diagnosis.facts import Flaw, Tensor
from fetchverify.formats.source import Malformed, Source

MOST_HEADER_BYTES = 128 << 20
MOST_TENSORS = 100_000
_MOST_KEYS = 65_536
_MOST_ITEMS = 4_000_000
_WINDOW = 1 << 20
_LONGEST_KEPT = 4096

Scalar: TypeAlias = str | int | float | bool

# Value types by number: their struct codes.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# ggml types by number: name, numbers a block, bytes a block. Source: gguf-py `constants.py::GGML_QUANT_SIZES`.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF header says.

    Attributes:
        metadata: the single values; arrays (the vocabulary) are walked over and counted in `arrays`.
        tensors: `start` and `stop` are bytes from the beginning of the file.
    """

    version: int
    metadata: dict[str, Scalar]
    arrays: dict[str, int]
    tensors: tuple[Tensor, ...]
    flaws: tuple[Flaw, ...]


class _Reader:
    """Reads forward through a window."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._start = 0
        self._window = b""
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > self._source.size:
            raise Malformed("FV107", f"the header goes on behind byte {self._source.size:,}, where the file ends")
        if self.at + count > MOST_HEADER_BYTES or count > _WINDOW:
            raise Malformed("FV125", "the header is larger than any known")
        if not (self._start <= self.at and self.at + count <= self._start + len(self._window)):
            self._start = self.at
            self._window = self._source.read(self.at, min(self._source.size, self.at + _WINDOW))
        offset = self.at - self._start
        data = self._window[offset : offset + count]
        if len(data) < count:
            raise Malformed("FV107", f"the header ends at byte {self._start + len(self._window):,}")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        if self.at + count > self._source.size:
            raise Malformed("FV107", f"the header goes on behind byte {self._source.size:,}, where the file ends")
        if self.at + count > MOST_HEADER_BYTES:
            raise Malformed("FV125", "the header is larger than any known")
        self.at += count

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def text(self) -> str:
        length = self.number("Q")
        if length > _LONGEST_KEPT:
            self.skip(length)
            return ""
        return self.take(length).decode("utf-8", "replace")


def read_gguf(source: Source) -> GgufHeader:
    """Return the header.

    Raises:
        Malformed: there is none, or it cannot be read.
    """
    reader = _Reader(source)
    if reader.take(4) != b"GGUF":
        raise Malformed("FV124", "the file does not begin with `GGUF`")
    version = reader.number("I")
    if version not in {2, 3}:
        turned = int.from_bytes(version.to_bytes(4, "big"), "little")
        why = "big-endian" if turned in {2, 3} else "1: before GGUF was settled" if version == 1 else f"{version:,}"
        raise Malformed("FV124", f"its version is {why}; loaders take 2 and 3")
    count, keys = reader.number("Q"), reader.number("Q")
    if count > MOST_TENSORS or keys > _MOST_KEYS:
        raise Malformed("FV124", f"the header claims {count:,} tensors and {keys:,} keys")
    metadata: dict[str, Scalar] = {}
    arrays: dict[str, int] = {}
    for _ in range(keys):
        key = reader.text()
        kind = reader.number("I")
        if kind == _ARRAY:
            arrays[key] = _skip_array(reader)
        else:
            metadata[key] = _scalar(reader, kind)
    infos = [_info(reader) for _ in range(count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise Malformed("FV124", "its alignment is absurd")
    data_start = -(-reader.at // alignment) * alignment
    tensors = tuple(_placed(info, data_start) for info in infos)
    flaws = []
    end = max((tensor.stop for tensor in tensors), default=data_start)
    if end > source.size:
        flaws.append(Flaw("FV108", f"{source.size:,} of {end:,} bytes are there, {end - source.size:,} are missing"))
    unknown = next((tensor for tensor in tensors if tensor.dtype.startswith("type ")), None)
    if unknown is not None:
        flaws.append(Flaw("FV114", f"`{unknown.name[:120]}` has ggml {unknown.dtype}"))
    return GgufHeader(version=version, metadata=metadata, arrays=arrays, tensors=tensors, flaws=tuple(flaws))


def _scalar(reader: _Reader, kind: int) -> Scalar:
    if kind == _STRING:
        return reader.text()
    code = _SCALARS.get(kind)
    if code is None:
        raise Malformed("FV124", f"a value of unknown type {kind} at byte {reader.at:,}")
    (value,) = struct.unpack(f"<{code}", reader.take(struct.calcsize(f"<{code}")))
    return value if isinstance(value, (bool, float)) else int(value)


def _skip_array(reader: _Reader) -> int:
    """Walk over an array and return its length."""
    kind, length = reader.number("I"), reader.number("Q")
    if kind in _SCALARS:
        reader.skip(length * struct.calcsize(f"<{_SCALARS[kind]}"))
    elif kind == _STRING:
        if length > _MOST_ITEMS:
            raise Malformed("FV125", f"an array claims {length:,} texts")
        for _ in range(length):
            reader.skip(reader.number("Q"))
    else:
        raise Malformed("FV124", f"an array of unknown type {kind} at byte {reader.at:,}")
    return length


def _info(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    dimensions = reader.number("I")
    if dimensions > 8:
        raise Malformed("FV124", f"`{name[:120]}` has {dimensions:,} dimensions")
    # ggml writes the fastest side first; everyone else last.
    shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
    if any(side > 1 << 50 for side in shape):
        raise Malformed("FV124", f"`{name[:120]}` has an impossible shape")
    return name, shape, reader.number("I"), reader.number("Q")


def _placed(info: tuple[str, tuple[int, ...], int, int], data_start: int) -> Tensor:
    name, shape, kind, offset = info
    start = data_start + offset
    dtype, per_block, block_bytes = TYPES.get(kind, (f"type {kind}", 1, 0))
    bare = Tensor(name, dtype, shape)
    return Tensor(name, dtype, shape, start, start + -(-bare.elements // per_block) * block_bytes)
