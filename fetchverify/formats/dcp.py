"""The `.metadata` of a torch distributed checkpoint: tensors, their chunks, and which file holds which bytes.

Nothing in it is executed: torch's own reader runs what a malicious one asks for. Source: torch 2.13
`distributed/checkpoint/metadata.py`, `filesystem.py`.
"""

from __future__ import annotations

from typing import Any

from fetchverify.core.diagnosis.facts import DcpSeen, Record, Span, Tensor
from fetchverify.formats.pickles import MOST_PICKLE_BYTES, Made, walk
from fetchverify.formats.source import Malformed, Source
from fetchverify.formats.torchfile import DTYPES, sides


def read_dcp(source: Source) -> DcpSeen:
    """Return what the `.metadata` says.

    Raises:
        Malformed: it is none.
    """
    if source.size > MOST_PICKLE_BYTES:
        raise Malformed("FV125", f"the `.metadata` has {source.size:,} bytes")
    walked = walk(source.read(0, source.size))
    top = _fields(walked.value)
    named = top.get("state_dict_metadata")
    if not isinstance(named, dict):
        raise Malformed("FV123", "this is a pickle, but not the `.metadata` of a distributed checkpoint")
    tensors, chunks = [], {}
    for name, note in named.items():
        fields = _fields(note)
        shape = sides(fields.get("size"))
        if not isinstance(name, str) or shape is None:
            continue  # an object that is no tensor has no size
        tensors.append(Tensor(name, _dtype(fields.get("properties")), shape))
        chunks[name] = tuple(_span(chunk) for chunk in _list(fields.get("chunks")))
    records, transformed = _records(top.get("storage_data"))
    planner = top.get("planner_data")
    paths = planner.values() if isinstance(planner, dict) else ()
    firsts = [path[0] for path in paths if isinstance(path, tuple) and path and isinstance(path[0], (str, int))]
    return DcpSeen(
        tensors=tuple(tensors),
        chunks=chunks,
        records=records,
        roots=tuple(str(root)[:120] for root in dict.fromkeys(firsts)),
        imports=walked.imports,
        transformed=transformed,
    )


def _fields(note: Any) -> dict[Any, Any]:
    """Return the attributes of a dataclass."""
    state = note.state if isinstance(note, Made) else None
    return state if isinstance(state, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dtype(properties: Any) -> str:
    state = properties.state if isinstance(properties, Made) else None
    first = state[0] if isinstance(state, tuple) and state else _fields(properties).get("dtype")
    return DTYPES.get(getattr(first, "name", ""), "UNKNOWN")


def _span(chunk: Any) -> Span:
    fields = _fields(chunk)
    offsets, sizes = sides(fields.get("offsets")), sides(fields.get("sizes"))
    if offsets is None or sizes is None or len(offsets) != len(sizes):
        raise Malformed("FV123", "a chunk in `.metadata` has no place")
    return offsets, sizes


def _records(storage: Any) -> tuple[tuple[Record, ...], bool]:
    records, transformed = [], False
    for index, note in storage.items() if isinstance(storage, dict) else ():
        fields = _fields(note)
        path, start, length = (fields.get(key) for key in ("relative_path", "offset", "length"))
        if not isinstance(path, str) or type(start) is not int or type(length) is not int or start < 0 or length < 0:
            raise Malformed("FV123", "a record in `.metadata` has no place")
        name = _fields(index).get("fqn")
        records.append(Record(name if isinstance(name, str) else "", path, start, length))
        transformed |= bool(fields.get("transform_descriptors"))
    return tuple(records), transformed
