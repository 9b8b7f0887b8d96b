"""Files of `torch.save`: tensors by name, and what loading them would import; zip form, and the older bare pickles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fetchverify.core.diagnosis.facts import DTYPE_BITS, Flaw, Slice, Tensor
from fetchverify.formats import ziptable
from fetchverify.formats.pickles import MOST_PICKLE_BYTES, Made, Persistent, Walked, walk
from fetchverify.formats.source import Malformed, Source

# The first pickle of the form before torch 1.6. Source: torch 2.13 `serialization.py`.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_DEEPEST = 6
MOST_TENSORS = 100_000
# A tensor of a class of its own: a DTensor, whose local part is one of its attributes.
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"

DTYPES = {
    "float32": "F32",
    "float": "F32",
    "float64": "F64",
    "double": "F64",
    "float16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "short": "I16",
    "int32": "I32",
    "int": "I32",
    "int64": "I64",
    "long": "I64",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_STORAGES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFile:
    """What a file of `torch.save` holds.

    Attributes:
        value: what its pickle would build, by `pickles.walk`.
        tensors: by dotted path from the top; `start` and `stop` in the file where the form says.
        imports: what loading it would import.
        members: of the zip form, the archive's table.
        slices: of the tensors that are a rank's part of a larger one.
    """

    value: Any
    tensors: tuple[Tensor, ...]
    imports: tuple[str, ...]
    members: dict[str, ziptable.Member]
    flaws: tuple[Flaw, ...]
    slices: dict[str, Slice] = field(default_factory=dict)


def read_torch(source: Source) -> TorchFile:
    """Return what the file holds.

    Raises:
        Malformed: it is no whole file of `torch.save`.
    """
    if source.read(0, 4) in {b"PK\x03\x04", b"PK\x05\x06"}:
        return _read_zip(source)
    return _read_old(source)


def _read_zip(source: Source) -> TorchFile:
    members = ziptable.read_table(source)
    main = next((member for name, member in members.items() if name.endswith("/data.pkl")), None)
    if main is None:
        raise Malformed("FV123", "the archive holds no `data.pkl`: it was not written by `torch.save`")
    if not main.stored:
        raise Malformed("FV123", "its `data.pkl` is compressed, which `torch.save` never does")
    if main.size > MOST_PICKLE_BYTES:
        raise Malformed("FV125", f"its `data.pkl` has {main.size:,} bytes")
    start, stop = ziptable.data_range(source, main)
    walked = walk(source.read(start, stop))
    folder = main.name.removesuffix("data.pkl")
    places: dict[str, tuple[int, int]] = {}
    flaws: dict[str, Flaw] = {}

    def place(key: str) -> tuple[int, int] | None:
        if key not in places:
            member = members.get(f"{folder}data/{key}")
            if member is None:
                flaws.setdefault("FV123", Flaw("FV123", f"the archive lacks the storage `data/{key[:40]}`"))
                return None
            places[key] = ziptable.data_range(source, member)
        return places[key]

    tensors = []
    slices = {}
    for name, note in tensors_in(walked.value):
        found = _tensor(name, note)
        if found is None:
            continue
        part = _slice(note)
        if part is not None:
            slices[name] = part
        tensor, key, last = found
        span = place(key)
        if span is not None:
            if span[0] + last > span[1]:
                flaws.setdefault("FV113", Flaw("FV113", f"`{name[:120]}` reaches behind its storage"))
            tensor = Tensor(name, tensor.dtype, tensor.shape, span[0] + tensor.start, span[0] + tensor.stop)
        tensors.append(tensor)
    return TorchFile(
        value=walked.value,
        tensors=tuple(tensors),
        imports=walked.imports,
        members=members,
        flaws=tuple(flaws.values()),
        slices=slices,
    )


def _read_old(source: Source) -> TorchFile:
    """Read the form before torch 1.6: magic, version, system, the object, the storages' keys, each a pickle."""
    data = source.read(0, min(source.size, MOST_PICKLE_BYTES))
    first = walk(data)
    last, imports = first, dict.fromkeys(first.imports)
    if first.value == _OLD_MAGIC:
        for _ in range(3):
            last = walk(data, last.stop)
            imports |= dict.fromkeys(last.imports)
    tensors = _without_places(last)
    return TorchFile(value=last.value, tensors=tensors, imports=tuple(imports), members={}, flaws=())


def _without_places(walked: Walked) -> tuple[Tensor, ...]:
    tensors = []
    for name, note in tensors_in(walked.value):
        found = _tensor(name, note)
        if found is not None:
            tensors.append(Tensor(name, found[0].dtype, found[0].shape))
    return tuple(tensors)


def pairs_of(value: Any) -> list[tuple[Any, Any]]:
    """Return the items of a dict, of the note of one (an OrderedDict), or of a list by their index."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, Made) and value.path in {"collections.OrderedDict", "collections.defaultdict"}:
        return [item for item in value.items if isinstance(item, tuple) and len(item) == 2]
    return []


def tensors_in(value: Any) -> Iterator[tuple[str, Made]]:
    """Yield the notes of tensors below `value` with their dotted paths."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    seen: set[int] = set()
    count = 0
    while waiting:
        path, one, depth = waiting.pop()
        if isinstance(one, Made) and (one.path.startswith("torch._utils._rebuild_") or one.path == _SUBCLASS):
            count += 1
            if count > MOST_TENSORS:
                raise Malformed("FV125", f"it holds more than {MOST_TENSORS:,} tensors")
            yield path, one
        elif depth < _DEEPEST and id(one) not in seen:
            seen.add(id(one))  # a pickle may nest a dict in itself
            pairs = pairs_of(one)
            for key, inner in reversed(pairs):
                if isinstance(key, (str, int)):
                    waiting.append((f"{path}.{key}" if path else str(key), inner, depth + 1))


def _tensor(name: str, note: Made) -> tuple[Tensor, str, int] | None:
    """Return the tensor with places in its storage, the storage's key, and where its last number ends there."""
    if note.path == _SUBCLASS:
        local = _state(note).get("_local_tensor")
        return _tensor(name, local) if isinstance(local, Made) and local.path != _SUBCLASS else None
    args = note.args
    if (
        note.path == "torch._utils._rebuild_parameter"
        and isinstance(args, tuple)
        and args
        and isinstance(args[0], Made)
    ):
        args = args[0].args
    if not isinstance(args, tuple) or len(args) < 4 or not isinstance(args[0], Persistent):
        return None
    key = args[0].key
    if not isinstance(key, tuple) or len(key) < 5 or not isinstance(key[2], str):
        return None
    dtype = _STORAGES.get(getattr(key[1], "name", ""), "") or _dtype_of(args)
    offset, shape, stride = args[1], sides(args[2]), sides(args[3])
    if type(offset) is not int or not 0 <= offset < 1 << 50 or shape is None or stride is None:
        raise Malformed("FV113", f"`{name[:120]}` has an impossible shape")
    if len(shape) != len(stride):
        raise Malformed("FV113", f"`{name[:120]}` has an impossible shape")
    width = DTYPE_BITS.get(dtype, 8) // 8
    tensor = Tensor(name, dtype or "UNKNOWN", shape)
    last = sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) + 1 if tensor.elements else 0
    end = (offset + last) * width
    return Tensor(name, tensor.dtype, shape, offset * width, end), key[2], end


def _state(note: Made) -> dict[Any, Any]:
    """Return the attributes that are put into what a note makes: last of its arguments, or its state."""
    if note.path == _SUBCLASS:
        found = note.args[3] if isinstance(note.args, tuple) and len(note.args) == 4 else None
    else:
        found = note.state
    if isinstance(found, tuple) and len(found) == 2:
        found = found[1]  # those of a class with slots
    return found if isinstance(found, dict) else {}


def _slice(note: Made) -> Slice | None:
    """Return what a DTensor says of the whole; None for any other tensor."""
    if note.path != _SUBCLASS or not isinstance(note.args, tuple) or len(note.args) < 3:
        return None
    made, spec = note.args[2], _state(note).get("_spec")
    shape = sides(made[2]) if isinstance(made, tuple) and len(made) > 2 else None
    placements = _state(spec).get("placements") if isinstance(spec, Made) else None
    if shape is None or not isinstance(placements, (tuple, list)) or not 0 < len(placements) <= 8:
        return None
    found: list[int | None] = []
    for one in placements:
        if not isinstance(one, Made) or not one.path.endswith((".Shard", ".Replicate")):
            return None
        side = _state(one).get("dim")
        if side is not None and type(side) is not int:
            return None
        found.append(side)
    return Slice(shape, tuple(found))


def _dtype_of(args: tuple[Any, ...]) -> str:
    """Return the dtype that the newer form of a tensor names itself."""
    return next(
        (DTYPES[arg.name] for arg in args[4:] if getattr(arg, "module", "") == "torch" and arg.name in DTYPES), ""
    )


def sides(value: Any) -> tuple[int, ...] | None:
    """Return a shape, written as a tuple or as a note of `torch.Size`; None where it is none."""
    if (
        isinstance(value, Made)
        and value.path == "torch.Size"
        and isinstance(value.args, tuple)
        and len(value.args) == 1
    ):
        value = value.args[0]
    if isinstance(value, (tuple, list)) and len(value) <= 64 and all(type(side) is int for side in value):
        shape = tuple(value)
        return shape if all(0 <= side < 1 << 50 for side in shape) else None
    return None
