"""What Llama-Stack's training leaves, in either of its forms: which one it is, its adapter, and the base it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fetchverify.core.diagnosis import layouts
from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.findings import Finding, Origin, Severity
from fetchverify.core.diagnosis.layouts import STACK_NAME, FolderSeen, name_of
from fetchverify.core.diagnosis.tensorrules import judge_adapter
from fetchverify.core.diagnosis.trainrules import REPO

# Llama-Stack's own names of models (`Llama3.2-1B-Instruct`), whose repos are named by one rule since 3.1.
_DESCRIPTOR = re.compile(r"Llama(3\.[1-9])-([\w.-]+)")
_CONFIGS = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json")

_WHOLE = ("*.safetensors", *_CONFIGS)


def judge_stack(folder: FolderSeen, adapter: FolderSeen | None, found: tuple[str, ...]) -> Iterator[Finding]:
    """Yield which form it is, and what is wrong with it beyond the rules on Meta's layout and PEFT's.

    Args:
        folder: an epoch's.
        adapter: its folder `adapter`, where there is one.
        found: its layouts.
    """
    if layouts.STACK_META in found:
        yield from _meta_form(folder, adapter)
    else:
        yield from _adapter_alone(folder, adapter)


def _meta_form(folder: FolderSeen, adapter: FolderSeen | None) -> Iterator[Finding]:
    beside = adapter is not None and "adapter.pth" in adapter.files
    if adapter is not None and beside:
        yield from _torchtunes(adapter, "adapter.pth")
    base = _base(folder, None)
    with_it = "with its adapter in `adapter/adapter.pth`" if beside else "without an adapter beside it"
    seen = f"the whole model{_epoch(folder)}, {with_it}{_of(base)}"
    yield finding("FV220", folder.path, seen, origin=Origin(repo_id=base), fetch=_CONFIGS)


def _adapter_alone(folder: FolderSeen, adapter: FolderSeen | None) -> Iterator[Finding]:
    here = adapter is not None and ("adapter_config.json" in adapter.files or layouts.adapter_weights(adapter.files))
    if not here:
        yield finding("FV222", folder.path, "no `adapter/adapter_model.safetensors`", origin=folder.origin)
    if "adapter_model.pt" in folder.files:
        yield from _torchtunes(folder, "adapter_model.pt")
    base = _base(folder, adapter)
    if "config.json" not in folder.files:
        seen, origin = "the copy of its base's is gone", Origin(repo_id=base)
        yield finding("FV201", folder.path, seen, origin=origin, fetch=("config.json",), severity=Severity.WARNING)
    seen = f"an adapter{_epoch(folder)}, no weights of the model{_of(base)}"
    yield finding("FV221", folder.path, seen, origin=Origin(repo_id=base), fetch=_WHOLE)


def _torchtunes(folder: FolderSeen, name: str) -> Iterator[Finding]:
    """Yield what is wrong with an adapter in torchtune's form, which has no config beside it."""
    tensors = folder.files[name].tensors
    if tensors is not None:
        yield from judge_adapter(folder.at(name), tensors, None, folder.origin)


def _epoch(folder: FolderSeen) -> str:
    named = STACK_NAME.fullmatch(name_of(folder).rpartition("/")[2])
    return f" after epoch {int(named['epoch'])}" if named else ""


def _of(base: str | None) -> str:
    return f"; its base is `{base}`" if base is not None else ""


def _base(folder: FolderSeen, adapter: FolderSeen | None) -> str | None:
    """Return the repo of the base, as far as adapter or folder name it."""
    told = (adapter.value("adapter_config.json") or {}).get("base_model_name_or_path") if adapter is not None else None
    if isinstance(told, str) and REPO.fullmatch(told):
        return told
    above, _, last = name_of(folder).rpartition("/")
    named = STACK_NAME.fullmatch(last)
    if named is None:
        return None
    if above.rpartition("/")[2] == "meta-llama":
        own = f"meta-llama/{named['model']}"
        return own if REPO.fullmatch(own) else None
    described = _DESCRIPTOR.fullmatch(named["model"])
    return f"meta-llama/Llama-{described[1]}-{described[2]}" if described else None
