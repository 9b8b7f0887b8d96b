"""Reads what one file of a model folder says of itself, choosing the reader by its name; judging is left to `core`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fetchverify.core.diagnosis.facts import Content, Entry, FileSeen, Flaw, Sniffed, Trouble
from fetchverify.core.diagnosis.filerules import UNREAD, judge_file, wrong_content
from fetchverify.core.diagnosis.findings import Finding, Origin
from fetchverify.core.diagnosis.layouts import SHARD
from fetchverify.core.manifest import Digest
from fetchverify.engine.hashing import new_buffer, new_hash
from fetchverify.formats import config, dcp, gguf, safetensors, torchfile
from fetchverify.formats.sniff import sniff
from fetchverify.formats.source import Malformed, Source
from fetchverify.store.reading import FileSource

_JSONS = frozenset(
    {
        "config.json",
        "adapter_config.json",
        "model_index.json",
        "params.json",
        "tokenizer_config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "scheduler_config.json",
        "added_tokens.json",
        "special_tokens_map.json",
    }
)
_TORCH_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Meta's own sums of its parts.
CHECKLIST = "checklist.chk"
_NOTHING = Sniffed(content=Content.UNKNOWN)


def examine(path: Path, entry: Entry) -> FileSeen:
    """Return what the file says; whatever is wrong with it is said in the answer."""
    if entry.trouble in UNREAD:
        return FileSeen(entry=entry, sniffed=_NOTHING)
    try:
        with FileSource(path) as source:
            return examine_source(source, entry)
    except OSError as error:
        why = error.strerror or "it cannot be read"
        unread = Entry(path=entry.path, size=entry.size, trouble=Trouble.UNREADABLE, detail=why)
        return FileSeen(entry=unread, sniffed=_NOTHING)


def examine_source(source: Source, entry: Entry) -> FileSeen:
    """Return what the content says."""
    sniffed = sniff(source)
    if wrong_content(entry.path, sniffed) is not None:
        return FileSeen(entry=entry, sniffed=sniffed)
    try:
        return _read(source, entry, sniffed)
    except Malformed as error:
        return FileSeen(entry=entry, sniffed=sniffed, flaws=(error.flaw,))


def _read(source: Source, entry: Entry, sniffed: Sniffed) -> FileSeen:
    name = entry.path.rpartition("/")[2]
    if name.endswith(".safetensors"):
        header = safetensors.read_header(source)
        return FileSeen(entry=entry, sniffed=sniffed, tensors=header.tensors, flaws=header.flaws)
    if name.endswith(".gguf"):
        found = gguf.read_gguf(source)
        return FileSeen(
            entry=entry, sniffed=sniffed, tensors=found.tensors, flaws=found.flaws, value=dict(found.metadata)
        )
    if name == ".metadata":
        told = dcp.read_dcp(source)
        return FileSeen(entry=entry, sniffed=sniffed, tensors=told.tensors, imports=told.imports, dcp=told)
    if name.endswith(_TORCH_ENDINGS):
        return _torch(source, entry, sniffed, name)
    if name in _JSONS or name.endswith(".index.json"):
        return FileSeen(entry=entry, sniffed=sniffed, value=config.read_json(source))
    if name == "train_params.yaml":
        return FileSeen(entry=entry, sniffed=sniffed, value=config.read_flat_yaml(source))
    if name == CHECKLIST:
        return FileSeen(entry=entry, sniffed=sniffed, value=config.read_md5s(source))
    if name == "latest":
        return FileSeen(entry=entry, sniffed=sniffed, value=source.read(0, 200).decode("utf-8", "replace"))
    return FileSeen(entry=entry, sniffed=sniffed)


def _torch(source: Source, entry: Entry, sniffed: Sniffed, name: str) -> FileSeen:
    if sniffed.content not in {Content.ZIP, Content.PICKLE}:
        known = name.endswith(("_model.bin", ".pth", ".pt"))
        flaws = (Flaw("FV123", f"this is {sniffed.content.value}"),) if known else ()
        return FileSeen(entry=entry, sniffed=sniffed, flaws=flaws)
    found = torchfile.read_torch(source)
    tensors = None if any(flaw.code in {"FV108", "FV123"} for flaw in found.flaws) else found.tensors
    return FileSeen(
        entry=entry,
        sniffed=sniffed,
        tensors=tensors,
        flaws=found.flaws,
        imports=found.imports,
        value=_zero(found) if name.endswith("_states.pt") else found.slices or None,
    )


def _zero(found: torchfile.TorchFile) -> dict[str, Any]:
    """Return what rules on DeepSpeed's ranks ask for: over how many it is cut, and how large this slice is."""
    top = {key: value for key, value in torchfile.pairs_of(found.value) if isinstance(key, str)}
    state = {key: value for key, value in torchfile.pairs_of(top.get("optimizer_state_dict")) if isinstance(key, str)}
    count = state.get("partition_count")
    if isinstance(count, list) and count:
        count = max((one for one in count if type(one) is int), default=None)
    flat = ("optimizer_state_dict.fp32_flat_groups.", "optimizer_state_dict.single_partition_of_fp32_groups.")
    sizes = tuple(tensor.elements for tensor in found.tensors if tensor.name.startswith(flat))
    return {"partition_count": count, "flat_sizes": sizes or None}


# A repo of more weights than this is looked at in part: saying so must not take longer than fetching it.
_MOST_WEIGHTS = 2000
_WEIGHTS = (".safetensors", ".gguf", ".pth", "_model.bin")


def broken_weights(root: Path, paths: Iterable[str]) -> tuple[Finding, ...]:
    """Return what is wrong with the weights among these files, judged each by its own header."""
    weights = [path for path in paths if path.endswith(_WEIGHTS) or SHARD.fullmatch(path.rpartition("/")[2])]
    found: list[Finding] = []
    for path in weights[:_MOST_WEIGHTS]:
        try:
            size = (root / path).stat().st_size
        except OSError:
            continue
        seen = examine(root / path, Entry(path=path, size=size))
        # What is larger than is looked at is not known to be broken.
        found += [one for one in judge_file(seen, _AT_THE_PUBLISHERS) if one.code != "FV125"]
    return tuple(replace(one, remedy=_TELL) for one in found)


_AT_THE_PUBLISHERS = Origin()
_TELL = "tell the repo's owners, or take another revision; what is here is what the repo promises"


def digest_of(path: Path, promised: Digest, size: int) -> str:
    """Return the digest of a file, of the kind that was promised.

    Raises:
        OSError: it cannot be read.
    """
    return _fed(new_hash(promised, size), path)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file: no proof against an enemy, but Meta's word on damage.

    Raises:
        OSError: it cannot be read.
    """
    return _fed(hashlib.md5(usedforsecurity=False), path)


def _fed(state: hashlib._Hash, path: Path) -> str:
    buffer = new_buffer()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(buffer[:count])
    return state.hexdigest()
