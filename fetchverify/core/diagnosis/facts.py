"""What was read of a model folder, as plain values; reading is left to `formats`, judging to the rules beside this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias


class Content(Enum):
    """What the first bytes of a file are, whatever its name says; the value completes "this is ..."."""

    EMPTY = "an empty file"
    ZEROS = "zeros"
    LFS_POINTER = "a Git LFS pointer"
    XET_POINTER = "a Xet pointer"
    HTML = "a web page"
    XML = "an XML message"
    JSON = "JSON"
    MESSAGE = "a server's error message"
    TEXT = "text"
    BOM_TEXT = "text behind a byte order mark"
    GZIP = "gzip data"
    ZSTD = "Zstandard data"
    BZIP2 = "bzip2 data"
    XZ = "xz data"
    SEVEN_ZIP = "a 7z archive"
    TAR = "a tar archive"
    ZIP = "a zip archive"
    PICKLE = "a pickle"
    SAFETENSORS = "safetensors"
    GGUF = "GGUF"
    GGML = "GGML, the older form of GGUF"
    HDF5 = "HDF5"
    NUMPY = "a NumPy array"
    ONNX_OR_PROTOBUF = "protobuf data"
    PICTURE = "a picture"
    PROGRAM = "a program"
    UNKNOWN = "unknown data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What a Git LFS or Xet pointer promises: the identity of the bytes that should be here."""

    sha256: str | None
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sniffed:
    """What the first bytes say.

    Attributes:
        pointer: with a pointer, what it promises.
        words: of a page or message, the first line that a person would read; else empty.
    """

    content: Content
    pointer: Pointer | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with a file's own form: the code of the finding, and what was seen."""

    code: str
    seen: str


Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor by its header.

    Attributes:
        dtype: as safetensors names it (`BF16`), whatever the format; GGUF keeps its own names for quantised types.
        start: bytes from the beginning of the file; -1 where the header does not say.
        stop: half-open.
    """

    name: str
    dtype: str
    shape: Shape
    start: int = -1
    stop: int = -1

    @property
    def elements(self) -> int:
        """Return how many numbers it holds."""
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True, slots=True)
class Slice:
    """What a rank's part of a DTensor says of the whole.

    Attributes:
        shape: of the whole.
        sides: for each dimension of the mesh, the side along which the whole is cut; None where it is repeated.
    """

    shape: Shape
    sides: tuple[int | None, ...]


# Bits of one number. Source: safetensors 0.8.0 `tensor.rs`.
DTYPE_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class Trouble(Enum):
    """Why a name in the folder is not simply read."""

    DANGLING = "dangling"
    OUTSIDE = "outside"
    FOLDER_OUTSIDE = "folder outside"
    UNREADABLE = "unreadable"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name below the place that is looked at; `path` is relative, with `/`.

    Attributes:
        size: bytes of the content; 0 where it cannot be looked at.
        executable: its mode says that it may be run.
        detail: of a trouble, what the system says or where the link leads; of what was left out, a phrase for it.
    """

    path: str
    size: int
    executable: bool = False
    trouble: Trouble | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSeen:
    """What was read of one file.

    Attributes:
        tensors: None where it has no header that could be read.
        value: of a JSON file that rules look into, the value; of a file of `torch.save`, what rules ask for: of
            DeepSpeed's ranks some numbers, else a `Slice` for each tensor that is a part of a larger one.
        imports: what a pickle would import.
        dcp: of a `.metadata`, what it says.
    """

    entry: Entry
    sniffed: Sniffed
    tensors: tuple[Tensor, ...] | None = None
    flaws: tuple[Flaw, ...] = ()
    imports: tuple[str, ...] = ()
    value: Any = None
    dcp: DcpSeen | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """Where the bytes of a chunk (or of an object that is no tensor) lie: `[start, start + length)` of `path`."""

    name: str
    path: str
    start: int
    length: int


Span: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # offsets, sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class DcpSeen:
    """What the `.metadata` of a distributed checkpoint says.

    Attributes:
        chunks: of each tensor, offsets and sizes.
        roots: the first names of the paths in the saved object (`model`, `optim`), where it says.
        transformed: some bytes are compressed or encrypted.
    """

    tensors: tuple[Tensor, ...]
    chunks: dict[str, tuple[Span, ...]]
    records: tuple[Record, ...]
    roots: tuple[str, ...]
    imports: tuple[str, ...]
    transformed: bool
