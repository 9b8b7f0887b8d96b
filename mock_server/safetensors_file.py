"""A writer of safetensors files in plain Python; what the tensors hold is left to the caller."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A float32 tensor as little-endian bytes."""

    shape: tuple[int, ...]
    data: bytes


def safetensors_bytes(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file: 8 bytes of header length, a JSON header padded to 8 bytes, then the data.

    Source: github.com/huggingface/safetensors, README, "Format".
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, tensor in tensors.items():
        stop = at + len(tensor.data)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensor.data for tensor in tensors.values())])
