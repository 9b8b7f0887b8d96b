"""Which blocks of a file's numbers to look at, and what they show: holes, zeros, NaN; `engine` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Tensor
from fetchverify.core.diagnosis.findings import Finding, Origin, Severity

BLOCK_BYTES = 4096
STRIDE_BYTES = 1 << 20
# A run of zeros this long is a hole: disks and downloads lose pages and blocks, not rows.
HOLE_BYTES = 256 << 10

# Bits of the exponent, its lowest bit, and the sign, a number of so many bytes each.
_EXPONENTS = {
    "BF16": (2, 0x7F80, 0x0080, 0x8000),
    "F16": (2, 0x7C00, 0x0400, 0x8000),
    "F32": (4, 0x7F800000, 0x00800000, 0x80000000),
    "F64": (8, 0x7FF0 << 48, 0x0010 << 48, 0x8000 << 48),
}
_LORA_B = re.compile(r"lora_(?:embedding_)?[Bb]\b")
# What may be zero, or infinite: what begins at zero, and masks. Some norms are stored as a distance from one.
# RoBERTa's token types are zeros, for want of any in fairseq.
_EXEMPT = re.compile(
    r"bias|norm|ln_|lora_(?:embedding_)?[Bb]\b|mask|zero_conv|\.gate\.|scale|running_|position|rotary|router|token_type"
    r"|\b(?:gamma|beta)\b"
)
# What an optimizer keeps is zero where no gradient came yet: of a LoRA's A at first, of experts that were not chosen.
_STATE = re.compile(r"exp_avg|exp_inf|max_exp|momentum|(?:^|\.)state\.\d+\.")
# A matrix smaller than this may be zero for reasons of its own.
_LARGE_BYTES = 64 << 10
_EMBEDDING = re.compile(r"embed|wte|lm_head|output\.weight|embd")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a tensor's numbers: where it lies in its file."""

    path: str
    tensor: Tensor
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a block holds; `run` is how many zero bytes lie around it, where it is zero."""

    block: Block
    zero: bool
    wild: bool
    run: int = 0


def blocks_of(path: str, tensors: Iterable[Tensor]) -> list[Block]:
    """Return one block a MiB of each tensor of floats, aligned to its numbers."""
    found = []
    for tensor in tensors:
        if tensor.dtype in _EXPONENTS and 0 <= tensor.start < tensor.stop:
            for start in range(tensor.start, tensor.stop, STRIDE_BYTES):
                found.append(Block(path, tensor, start, min(start + BLOCK_BYTES, tensor.stop)))
    return found


def order(blocks: list[Block]) -> Iterator[Block]:
    """Yield the blocks so that any beginning of them is spread over all."""
    for first in (0, 4, 2, 6, 1, 5, 3, 7):
        yield from blocks[first::8]


def is_wild(dtype: str, data: bytes) -> bool:
    """Tell whether a NaN or an infinity is among the numbers.

    All of them at once: where an exponent is all ones, adding its lowest bit carries into the sign.
    """
    width, exponent, lowest, sign = _EXPONENTS[dtype]
    count = len(data) // width
    ones = ((1 << 8 * width * count) - 1) // ((1 << 8 * width) - 1)  # a one in the lowest bit of each number
    value = int.from_bytes(data[: count * width], "little")
    return bool(((value & (ones * exponent)) + ones * lowest) & (ones * sign))


def judge_samples(seen: Iterable[Seen], origin: Origin) -> Iterator[Finding]:
    """Yield what the blocks show, a finding a tensor."""
    tensors: dict[tuple[str, str], list[Seen]] = {}
    for one in seen:
        tensors.setdefault((one.block.path, one.block.tensor.name), []).append(one)
    halves = [found for (_, name), found in tensors.items() if _LORA_B.search(name)]
    if halves and all(one.zero for found in halves for one in found):
        yield finding("FV314", halves[0][0].block.path, f"all {len(halves):,} of its B", origin=origin)
    for (path, name), found in tensors.items():
        if any(one.wild for one in found) and not _EXEMPT.search(name):
            yield finding("FV312", path, f"in `{name[:120]}`", origin=origin)
        if not _EXEMPT.search(name) and not _STATE.search(name):
            yield from _zeros(path, name, found, origin)


def _zeros(path: str, name: str, found: list[Seen], origin: Origin) -> Iterator[Finding]:
    zeros = [one for one in found if one.zero]
    if not zeros:
        return
    tensor = found[0].block.tensor
    if len(zeros) == len(found) and (len(tensor.shape) > 1) and len(found) * STRIDE_BYTES >= tensor.stop - tensor.start:
        if zeros[0].run >= min(tensor.stop - tensor.start, HOLE_BYTES):
            milder = Severity.WARNING if tensor.stop - tensor.start < _LARGE_BYTES else None
            seen = f"`{name[:120]}` of shape {list(tensor.shape)}"
            yield finding("FV313", path, seen, origin=origin, severity=milder)
        return
    longest = max(zeros, key=lambda one: one.run)
    if longest.run >= HOLE_BYTES:
        # Rows of an embedding that no token uses may be zero.
        milder = Severity.WARNING if _EMBEDDING.search(name) else None
        seen = f"in `{name[:120]}`, around byte {longest.block.start:,}, in {len(zeros):,} of {len(found):,} samples"
        yield finding("FV117", path, seen, origin=origin, severity=milder)
