"""Looks at a block a MiB of a model's numbers, for as long as it may; judging is left to `core.diagnosis.samples`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fetchverify.core.diagnosis.facts import FileSeen
from fetchverify.core.diagnosis.samples import HOLE_BYTES, Block, Seen, blocks_of, is_wild, order
from fetchverify.store.reading import FileSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was seen: of `blocks` in all, those that there was time for."""

    seen: tuple[Seen, ...]
    blocks: int


def sample(files: Iterable[tuple[Path, FileSeen]], budget_s: float) -> Sampled:
    """Return what the blocks hold; stops when the time is up."""
    deadline = time.monotonic() + budget_s
    blocks: list[Block] = []
    paths: dict[str, Path] = {}
    for path, file in files:
        found = blocks_of(file.entry.path, file.tensors or ())
        if found:
            paths[file.entry.path] = path
            blocks += found
    sources: dict[str, FileSource] = {}
    seen: list[Seen] = []
    try:
        for name, path in paths.items():
            with suppress(OSError):
                sources[name] = FileSource(path)
        for block in order(blocks):
            if time.monotonic() > deadline:
                break
            source = sources.get(block.path)
            if source is not None:
                with suppress(OSError):
                    seen.append(_look(source, block))
    finally:
        for source in sources.values():
            source.close()
    return Sampled(seen=tuple(seen), blocks=len(blocks))


def _look(source: FileSource, block: Block) -> Seen:
    data = source.read(block.start, block.stop)
    if data.count(0) == len(data):
        return Seen(block, bool(data), wild=False, run=_run(source, block) if data else 0)
    return Seen(block, zero=False, wild=is_wild(block.tensor.dtype, data))


def _run(source: FileSource, block: Block) -> int:
    """Return how many zero bytes lie around a zero block within its tensor, up to twice a hole's length."""
    first = max(block.tensor.start, block.start - HOLE_BYTES)
    last = min(block.tensor.stop, block.stop + HOLE_BYTES)
    before, after = source.read(first, block.start), source.read(block.stop, last)
    lead = len(before) - len(before.rstrip(b"\0"))
    return lead + (block.stop - block.start) + len(after) - len(after.lstrip(b"\0"))
