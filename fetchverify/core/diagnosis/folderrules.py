"""What must lie in a folder of each layout, and what must agree in it; training's own are in `trainrules`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from fetchverify.core.diagnosis import layouts, trainrules
from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import FileSeen, Tensor
from fetchverify.core.diagnosis.findings import Finding
from fetchverify.core.diagnosis.layouts import META_PART, SHARD, FolderSeen, hf_weights
from fetchverify.core.diagnosis.tensorrules import architecture, embedding_rows, judge_adapter, judge_tensors

_INDEX = ".index.json"
_MEMBERS_SHOWN = 4


def judge_folder(folder: FolderSeen, found: tuple[str, ...]) -> Iterator[Finding]:
    """Yield what is wrong with a folder of these layouts."""
    if {layouts.META, layouts.STACK_META} & {*found} and layouts.HF in found:
        yield finding("FV218", folder.path, "config.json and consolidated.*.pth lie side by side", origin=folder.origin)
    for layout in found:
        rules = _RULES.get(layout)
        if rules is not None:
            yield from rules(folder)


def _some(items: list[str]) -> str:
    shown = ", ".join(f"`{item[:100]}`" for item in items[:_MEMBERS_SHOWN])
    return shown if len(items) <= _MEMBERS_SHOWN else f"{shown} and {len(items) - _MEMBERS_SHOWN:,} more"


def _whole(folder: FolderSeen, names: tuple[str, ...]) -> bool:
    """Tell whether every one of these files gave its tensors: else what is missing was said already."""
    return all(folder.files[name].tensors is not None for name in names)


# --- transformers


def _hf(folder: FolderSeen) -> Iterator[Finding]:
    names = folder.files.keys()
    if "config.json" not in names:
        yield finding(
            "FV201", folder.path, "weights, and no config.json", origin=folder.origin, fetch=(folder.at("config.json"),)
        )
    yield from _weights(folder)
    yield from _tokenizer(folder)
    yield from _processor(folder)
    yield from _template(folder)


def _weights(folder: FolderSeen) -> Iterator[Finding]:
    names = hf_weights(folder.files)
    config = folder.value("config.json")
    if not names and not any(name.endswith(_INDEX) for name in folder.files):
        yield finding(
            "FV202", folder.path, "a config and no weights", origin=folder.origin, fetch=(folder.at("*.safetensors"),)
        )
        return
    found = list(_shards(folder, names))
    yield from found
    yield from _single_and_shards(folder, names)
    used = _loaded(names)
    # What a missing shard holds is not lost from the model.
    if used and not any(one.code == "FV203" for one in found) and _whole(folder, used):
        paths = tuple(folder.at(name) for name in used)
        where = paths[0] if len(paths) == 1 else folder.path
        yield from judge_tensors(where, folder.tensors(used), config, folder.origin, paths)
        yield from _added_words(folder, folder.tensors(used))


def _loaded(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files that transformers would load: one form, without variants."""
    for ending in (".safetensors", ".bin"):
        stem = "model" if ending == ".safetensors" else "pytorch_model"
        if f"{stem}{ending}" in names:
            return (f"{stem}{ending}",)
        shards = tuple(
            name for name in names if (one := SHARD.fullmatch(name)) and one["stem"] == stem and one["ending"] == ending
        )
        if shards:
            return shards
    return names[:1]


def _shards(folder: FolderSeen, names: tuple[str, ...]) -> Iterator[Finding]:
    """Yield shards and indexes that are missing or disagree."""
    sets: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for name in names:
        found = SHARD.fullmatch(name)
        if found is not None:
            sets[found["stem"], found["ending"], int(found["count"])].add(int(found["number"]))
    for (stem, ending, count), numbers in sets.items():
        if count > 100_000:
            continue
        lost = [f"{stem}-{n:05}-of-{count:05}{ending}" for n in range(1, count + 1) if n not in numbers]
        if lost:
            paths = tuple(folder.at(name) for name in lost)
            seen = f"{len(lost):,} of {count:,} are not there: {_some(lost)}"
            yield finding("FV203", folder.path, seen, origin=folder.origin, fetch=paths)
        index = f"{stem}{ending}{_INDEX}"
        if index not in folder.files and f"{stem}{_INDEX}" not in folder.files:
            yield finding(
                "FV204", folder.path, f"`{index}` is not there", origin=folder.origin, fetch=(folder.at(index),)
            )
    for name, seen_file in folder.files.items():
        if name.endswith(_INDEX):
            yield from _index(folder, name, seen_file, said=bool(sets))


def _is_name(text: str) -> bool:
    """Tell a name that a repo may hold beside its index from what only a hostile or broken index gives."""
    return text.endswith((".safetensors", ".bin")) and "/" not in text and text.isprintable()


def _index(folder: FolderSeen, name: str, index: FileSeen, *, said: bool) -> Iterator[Finding]:
    """Compare an index with the headers, both ways."""
    value = folder.value(name)
    where = value.get("weight_map") if value is not None else None
    if not isinstance(where, dict):
        if index.value is not None:
            yield finding("FV205", folder.at(name), "the index has no `weight_map`", origin=folder.origin)
        return
    shards: dict[str, set[str]] = defaultdict(set)
    for tensor, shard in where.items():
        shards[str(shard)].add(tensor)
    absent = sorted(shard for shard in shards if shard not in folder.files)
    if absent and not (said and all(SHARD.fullmatch(shard) for shard in absent)):
        yield finding(
            "FV203",
            folder.path,
            f"the index names {_some(absent)}",
            origin=folder.origin,
            fetch=tuple(folder.at(one) for one in absent if _is_name(one)) or (folder.at(name),),
        )
    here = [shard for shard in shards if shard in folder.files and folder.files[shard].tensors is not None]
    total = 0
    for shard in here:
        tensors = folder.files[shard].tensors or ()
        named = {tensor.name for tensor in tensors}
        total += sum(tensor.stop - tensor.start for tensor in tensors)
        lost, extra = sorted(shards[shard] - named), sorted(named - shards[shard])
        if lost:
            yield finding(
                "FV205", folder.at(shard), f"it lacks {_some(lost)}, which the index puts there", origin=folder.origin
            )
        if extra:
            yield finding(
                "FV205", folder.at(name), f"it does not name {_some(extra)} of `{shard}`", origin=folder.origin
            )
    promised = (
        value.get("metadata", {}).get("total_size") if value and isinstance(value.get("metadata"), dict) else None
    )
    if (
        type(promised) is int
        and len(here) == len(shards)
        and promised != total
        and name.startswith("model.safetensors")
    ):
        yield finding(
            "FV206", folder.at(name), f"{promised:,} bytes, the headers add up to {total:,}", origin=folder.origin
        )


def _single_and_shards(folder: FolderSeen, names: tuple[str, ...]) -> Iterator[Finding]:
    for single, stem in (("model.safetensors", "model"), ("pytorch_model.bin", "pytorch_model")):
        shards = [name for name in names if (one := SHARD.fullmatch(name)) and one["stem"] == stem]
        if single in names and shards:
            yield finding("FV207", folder.path, f"`{single}` beside {_some(shards)}", origin=folder.origin)


def _added_words(folder: FolderSeen, tensors: tuple[Tensor, ...]) -> Iterator[Finding]:
    """Yield that the tokenizer gives a word a number behind the embedding's end."""
    told = (folder.value("tokenizer_config.json") or {}).get("added_tokens_decoder")
    words = (
        [int(key) for key in told if key.isascii() and key.isdigit() and len(key) < 10]
        if isinstance(told, dict)
        else []
    )
    rows = embedding_rows(tensors)
    if words and rows is not None and max(words) >= rows:
        seen = f"the tokenizer's word {max(words):,}, an embedding of {rows:,} rows"
        yield finding("FV316", folder.at("tokenizer_config.json"), seen, origin=folder.origin)


_TEXT_FILES = frozenset({"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt"})


def _tokenizer(folder: FolderSeen) -> Iterator[Finding]:
    names = folder.files.keys()
    config = folder.value("config.json") or {}
    # What only sees or hears has none; a wrong guess here would be a false alarm.
    if "vocab_size" not in config and not any(
        isinstance(config.get(key), dict) for key in ("text_config", "llm_config")
    ):
        return
    whole = _TEXT_FILES & names or {"vocab.json", "merges.txt"} <= names or "tekken.json" in names
    auto = (folder.value("tokenizer_config.json") or {}).get("auto_map")
    if not whole and not auto:
        seen = "no tokenizer.json, tokenizer.model, or vocab.json with merges.txt"
        yield finding("FV208", folder.path, seen, origin=folder.origin, fetch=(folder.at("tokenizer*"),))
    elif "tokenizer_config.json" not in names and "tekken.json" not in names:
        seen = "no tokenizer_config.json"
        yield finding("FV208", folder.path, seen, origin=folder.origin, fetch=(folder.at("tokenizer_config.json"),))


def _processor(folder: FolderSeen) -> Iterator[Finding]:
    config = folder.value("config.json") or {}
    if not any(isinstance(config.get(key), dict) for key in ("vision_config", "audio_config")):
        return
    if not {"preprocessor_config.json", "processor_config.json"} & folder.files.keys():
        seen = "no preprocessor_config.json or processor_config.json"
        yield finding("FV209", folder.path, seen, origin=folder.origin, fetch=(folder.at("preprocessor_config.json"),))


def _template(folder: FolderSeen) -> Iterator[Finding]:
    config = folder.value("config.json") or {}
    sees = isinstance(config.get("vision_config"), dict) and isinstance(config.get("text_config"), dict)
    if not sees or not architecture(config).endswith("ForConditionalGeneration"):
        return
    beside = {"chat_template.jinja", "chat_template.json"} & folder.files.keys()
    if not beside and not any("chat_template" in (folder.value(name) or {}) for name in _TEMPLATED):
        fetch = (folder.at("chat_template*"),)
        yield finding("FV224", folder.path, "no chat_template.jinja", origin=folder.origin, fetch=fetch)


_TEMPLATED = ("tokenizer_config.json", "processor_config.json")


# --- PEFT


def _peft(folder: FolderSeen) -> Iterator[Finding]:
    names = layouts.adapter_weights(folder.files)
    if "adapter_config.json" not in folder.files:
        yield finding(
            "FV210",
            folder.path,
            "weights of an adapter, and no adapter_config.json",
            origin=folder.origin,
            fetch=(folder.at("adapter_config.json"),),
        )
    if not names:
        yield finding(
            "FV211",
            folder.path,
            "an adapter's config, and no weights",
            origin=folder.origin,
            fetch=(folder.at("adapter_model.safetensors"),),
        )
    for name in names[:1] if "adapter_model.safetensors" not in names else ("adapter_model.safetensors",):
        tensors = folder.files[name].tensors
        if tensors is not None:
            yield from judge_adapter(folder.at(name), tensors, folder.value("adapter_config.json"), folder.origin)


# --- Meta

# What a save in HF's form takes along from the base.
_FOR_HF = ("config.json", "tokenizer.json", "tokenizer_config.json")


def _meta(folder: FolderSeen) -> Iterator[Finding]:
    parts = {int(found[1]): name for name in folder.files if (found := META_PART.fullmatch(name))}
    params = folder.value("params.json")
    if "params.json" not in folder.files:
        yield finding("FV213", folder.path, "no params.json", origin=folder.origin, fetch=(folder.at("params.json"),))
    if "tokenizer.model" not in folder.files and "tekken.json" not in folder.files:
        yield finding(
            "FV208", folder.path, "no tokenizer.model", origin=folder.origin, fetch=(folder.at("tokenizer.model"),)
        )
    count = max(max(parts, default=-1) + 1, _parallel(folder, parts, params), 1)
    lost = [folder.at(f"consolidated.{number:02}.pth") for number in range(count) if number not in parts]
    if lost:
        yield finding(
            "FV212", folder.path, f"{len(lost)} of {count}: {_some(lost)}", origin=folder.origin, fetch=tuple(lost)
        )
    yield from _meta_parts(folder, parts)
    yield from _meta_width(folder, parts, params)
    names = {tensor.name for name in parts.values() for tensor in folder.files[name].tensors or ()}
    layers = {int(name.split(".")[1]) for name in names if name.startswith("layers.") and name.split(".")[1].isdigit()}
    wanted = params.get("n_layers") if params else None
    if type(wanted) is int and layers and max(layers) + 1 < min(wanted, 10_000):
        yield finding("FV304", folder.path, f"{len(layers)} layers, params.json says {wanted}", origin=folder.origin)


def _meta_alone(folder: FolderSeen) -> Iterator[Finding]:
    """Yield what is wrong with a folder in Meta's layout, and what a save in HF's form would lack."""
    yield from _meta(folder)
    if "config.json" not in folder.files and layouts.HF not in layouts.recognise(folder):
        parts = sum(META_PART.fullmatch(name) is not None for name in folder.files)
        lacking = [name for name in _FOR_HF if name not in folder.files]
        seen = f"{parts} of Meta's parts, no {', '.join(lacking)}; a fine-tuned model cannot be saved in HF's form"
        yield finding("FV219", folder.path, f"{seen} from here", origin=folder.origin)


def _meta_width(folder: FolderSeen, parts: dict[int, str], params: dict[str, object] | None) -> Iterator[Finding]:
    """Yield that params.json gives another width: that of a norm, which no part holds a slice of."""
    width = params.get("dim") if params else None
    for name in parts.values():
        for tensor in folder.files[name].tensors or ():
            if tensor.name == "norm.weight" and type(width) is int and tensor.shape != (width,):
                seen = f"`norm.weight` is {list(tensor.shape)}, params.json says a width of {width:,}"
                yield finding("FV306", folder.at(name), seen, origin=folder.origin)
                return


def _parallel(folder: FolderSeen, parts: dict[int, str], params: dict[str, object] | None) -> int:
    """Return over how many parts the model is cut, by the width of a head's matrix in one of them; 0 where unknown."""
    width = params.get("dim") if params else None
    for name in parts.values():
        for tensor in folder.files[name].tensors or ():
            if tensor.name.endswith("attention.wq.weight") and len(tensor.shape) == 2 and isinstance(width, int):
                rows, columns = tensor.shape
                if columns == width and rows and width % rows == 0 and width // rows <= 64:
                    return width // rows
    return 0


def _meta_parts(folder: FolderSeen, parts: dict[int, str]) -> Iterator[Finding]:
    first: dict[str, tuple[int, ...]] | None = None
    for _, name in sorted(parts.items()):
        tensors = folder.files[name].tensors
        if tensors is None:
            continue
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        if first is not None and shapes != first:
            differing = sorted(one for one in shapes.keys() | first.keys() if shapes.get(one) != first.get(one))
            yield finding(
                "FV317", folder.at(name), f"it differs from the first in {_some(differing)}", origin=folder.origin
            )
        first = first or shapes


# --- diffusers


def _component(folder: FolderSeen) -> Iterator[Finding]:
    yield from _shards(folder, tuple(name for name in folder.files if SHARD.fullmatch(name)))


# --- GGUF


def _gguf(folder: FolderSeen) -> Iterator[Finding]:
    sets: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in folder.files:
        found = SHARD.fullmatch(name)
        if found is not None and found["ending"] == ".gguf":
            sets[found["stem"], int(found["count"])].add(int(found["number"]))
    for (stem, count), numbers in sets.items():
        lost = [f"{stem}-{n:05}-of-{count:05}.gguf" for n in range(1, min(count, 100_000) + 1) if n not in numbers]
        if lost:
            paths = tuple(folder.at(name) for name in lost)
            seen = f"{len(lost):,} of {count:,} are not there: {_some(lost)}"
            yield finding("FV216", folder.path, seen, origin=folder.origin, fetch=paths)


def _alone(folder: FolderSeen) -> Iterator[Finding]:
    """Files of weights outside any layout: whether there is anything in them."""
    for name, seen in folder.files.items():
        if name.endswith(".safetensors") and seen.tensors == ():
            yield finding("FV309", folder.at(name), "the header is whole and names no tensor", origin=folder.origin)
        elif name.endswith(".safetensors") and seen.tensors and all(tensor.elements == 0 for tensor in seen.tensors):
            yield finding("FV308", folder.at(name), f"all {len(seen.tensors):,}", origin=folder.origin)


_RULES: dict[str, Callable[[FolderSeen], Iterator[Finding]]] = {
    layouts.HF: _hf,
    layouts.PEFT: _peft,
    layouts.META: _meta_alone,
    layouts.STACK_META: _meta,
    layouts.COMPONENT: _component,
    layouts.GGUF: _gguf,
    layouts.WEIGHTS: _alone,
    layouts.DCP: trainrules.judge_dcp,
    layouts.VERL: trainrules.judge_verl,
}
