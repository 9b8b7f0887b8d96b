"""Which layouts lie where in a tree, by names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fetchverify.core.diagnosis.facts import FileSeen, Tensor
from fetchverify.core.diagnosis.findings import Origin

# Layouts as people read them.
HF, PEFT, META, DIFFUSERS, GGUF = "transformers", "PEFT adapter", "Meta", "diffusers", "GGUF"
DCP, ZERO, VERL, WEIGHTS = "distributed checkpoint", "DeepSpeed ZeRO", "verl", "weights alone"
TOKENIZER, COMPONENT, ONE_FILE = "tokenizer", "diffusers component", "one file"
STACK_META, STACK_ADAPTER = "Llama-Stack in Meta's form", "Llama-Stack in HF's form, an adapter alone"

SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})(?P<ending>(?:\.[\w]+)?\.(?:safetensors|bin|gguf))"
)
META_PART = re.compile(r"consolidated\.(\d{2,3})\.pth")
VERL_PART = re.compile(r"model_world_size_(\d{1,6})_rank_(\d{1,6})\.pt")
ZERO_FILE = re.compile(r"(?:bf16_)?(?:zero_pp_rank_\d+_)?mp_rank_\d+_(?:optim|model)_states\.pt")
# Source: llama-stack 0.2 `post_training/torchtune/common/checkpointer.py`: `<model>-<algorithm>-<epoch>`.
STACK_NAME = re.compile(r"(?P<model>.+)-sft-(?P<epoch>\d{1,6})")
STEP = re.compile(r"global_step\d+")
_HF_WEIGHTS = re.compile(
    r"(?:model|pytorch_model)(?:\.\w+)?(?:-\d{5,6}-of-\d{5,6})?(?:\.\w+)?\.(?:safetensors|bin)(?:\.index\.json)?"
)
_ADAPTER_WEIGHTS = re.compile(r"adapter_model\.(?:safetensors|bin)")
_TOKENIZER = frozenset({"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "spiece.model"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSeen:
    """One folder of the tree.

    Attributes:
        path: below the place looked at; `.` for itself.
        files: by name, those that lie in it.
        folders: names of those in it.
        origin: for remedies, whose paths begin at `prefix`.
    """

    path: str
    files: Mapping[str, FileSeen]
    folders: frozenset[str]
    origin: Origin

    def at(self, name: str) -> str:
        """Return the path of a name in this folder."""
        return name if self.path == "." else f"{self.path}/{name}"

    def value(self, name: str) -> dict[str, Any] | None:
        """Return what a JSON file holds, where it is an object that could be read."""
        seen = self.files.get(name)
        return seen.value if seen is not None and isinstance(seen.value, dict) else None

    def tensors(self, names: Iterable[str]) -> tuple[Tensor, ...]:
        """Return the tensors of these files."""
        return tuple(tensor for name in names for tensor in self.files[name].tensors or ())


def hf_weights(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that transformers takes for weights, without indexes."""
    return tuple(sorted(name for name in names if _HF_WEIGHTS.fullmatch(name) and not name.endswith(".json")))


def adapter_weights(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that PEFT takes for weights."""
    return tuple(sorted(name for name in names if _ADAPTER_WEIGHTS.fullmatch(name)))


def recognise(
    folder: FolderSeen, above: tuple[str, ...] = (), adapter: Collection[str] = frozenset()
) -> tuple[str, ...]:
    """Return the layouts of one folder.

    Args:
        folder: by its names alone.
        above: layouts of the folder that it lies in.
        adapter: names in its folder `adapter`, where it has one.
    """
    names = folder.files.keys()
    found = []
    if "model_index.json" in names:
        return (DIFFUSERS,)
    if DIFFUSERS in above:
        return (COMPONENT,)
    if ZERO in above and STEP.fullmatch(folder.path.rpartition("/")[2]):
        return ()  # judged with the folder that it lies in
    meta = any(META_PART.fullmatch(name) for name in names)
    if STACK_META in above and "adapter.pth" in names and not meta:
        return ()  # so is this
    if _is_copied_original(folder, above) and not meta:
        return ()
    if "adapter_config.json" in names or adapter_weights(names):
        found.append(PEFT)
    # Mistral's own layout has a params.json too, beside safetensors.
    other = "config.json" in names or any(name.endswith(".safetensors") for name in names)
    if meta or ("params.json" in names and not other):
        found.append(STACK_META if "adapter.pth" in adapter or is_stacks(folder) else META)
    weights = hf_weights(names)
    index = any(_HF_WEIGHTS.fullmatch(name) and name.endswith(".json") for name in names)
    training = ".metadata" in names or any(name.endswith(".distcp") for name in names)
    zero = any(STEP.fullmatch(name) for name in folder.folders) or any(ZERO_FILE.fullmatch(name) for name in names)
    verl = any(VERL_PART.fullmatch(name) for name in names)
    gguf = any(name.endswith(".gguf") for name in names)
    alone = "adapter_model.pt" in names or (is_stacks(folder) and "adapter_config.json" in adapter)
    if alone and not (found or weights or index):
        found.append(STACK_ADAPTER)
    leaves_only_config = training or zero or verl or gguf or {PEFT, STACK_ADAPTER} & {*found}
    if weights or index or ("config.json" in names and not leaves_only_config and _is_model(folder)):
        found.append(HF)
    if gguf:
        found.append(GGUF)
    if training:
        found.append(DCP)
    if zero and ZERO not in above:
        found.append(ZERO)
    if verl:
        found.append(VERL)
    if not found and any(name.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin")) for name in names):
        found.append(WEIGHTS)
    if not found and _TOKENIZER & names:
        found.append(TOKENIZER)
    return tuple(found)


def name_of(folder: FolderSeen) -> str:
    """Return the path of the folder as far as it is known, also of the one that is looked at; empty in the cache."""
    return folder.path if folder.path != "." else (folder.origin.to or "").replace("\\", "/").rstrip("/")


def is_stacks(folder: FolderSeen) -> bool:
    """Tell whether the folder has the name that Llama-Stack gives to what an epoch leaves."""
    return STACK_NAME.fullmatch(name_of(folder).rpartition("/")[2]) is not None


def _is_copied_original(folder: FolderSeen, above: tuple[str, ...]) -> bool:
    """Tell Meta's small files that lie beside HF's layout without their weights: those were left out on purpose."""
    return folder.path.rpartition("/")[2] == "original" and bool({HF, PEFT, STACK_ADAPTER} & {*above})


def _is_model(folder: FolderSeen) -> bool:
    """Tell the config of a model that should lie here from one that stands alone on purpose.

    verl keeps config and tokenizer in `huggingface/`; sentence-transformers' `1_Pooling/config.json` is no model's.
    """
    if _TOKENIZER & folder.files.keys() and folder.path.rpartition("/")[2] == "huggingface":
        return False
    config = folder.value("config.json")
    return config is None or "model_type" in config or "architectures" in config
