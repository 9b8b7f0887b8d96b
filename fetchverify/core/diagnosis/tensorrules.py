"""Rules on tensors' names and shapes that hold for any architecture, against the config where it speaks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Tensor
from fetchverify.core.diagnosis.findings import Finding, Origin

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")
_LAYER = re.compile(r"(?P<stack>(?:.*\.)?(?:layers|layer|h|blocks|block))\.(?P<number>\d{1,5})\.(?P<rest>.+)")
_HEAD = re.compile(
    r"(?:.*\.)?(?:lm_head|embed_out|output|output_layer|cls\.predictions\.decoder)\.(?:weight|qweight|linear\.weight)"
)
_EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight")
_ELSEWHERE = re.compile(r"vision|visual|image|audio|speech|encoder|mtp|draft|tower|talker|code2wav")
# A config may claim any number; the deepest model seen has 126.
_MOST_LAYERS = 10_000
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


def judge_tensors(
    path: str, tensors: Sequence[Tensor], config: Mapping[str, Any] | None, origin: Origin, files: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield what is wrong with a model's tensors.

    Args:
        path: the folder, or the only file.
        tensors: of all its files.
        config: `config.json`, where there is one.
        origin: for the remedies.
        files: the weights, for the remedies.
    """
    empty = list(judge_empty(path, tensors, origin))
    if empty:
        yield from empty
        return
    names = [tensor.name for tensor in tensors]
    prefix = wrapper_prefix(names)
    if prefix:
        yield finding("FV307", path, f"all {len(names):,} names begin with `{prefix}`", origin=origin)
        tensors = [Tensor(one.name.removeprefix(prefix), one.dtype, one.shape) for one in tensors]
    yield from _layers(path, tensors, config or {}, origin, files)
    if config is not None:
        yield from _embedding(path, tensors, config, origin)
        yield from _head(path, tensors, config, origin, files)


def judge_empty(path: str, tensors: Sequence[Tensor], origin: Origin) -> Iterator[Finding]:
    """Yield that nothing was saved: no tensor, or tensors of shape `[0]`."""
    if not tensors:
        yield finding("FV309", path, "the header is whole and names no tensor", origin=origin)
        return
    hollow = [tensor.name for tensor in tensors if tensor.elements == 0]
    if hollow:
        yield finding("FV308", path, f"{len(hollow):,} of {len(tensors):,}, such as `{hollow[0][:120]}`", origin=origin)


def wrapper_prefix(names: Sequence[str]) -> str:
    """Return the wrapper's prefix that all names share; empty where there is none."""
    found = ""
    while names:
        more = next((one for one in WRAPPERS if all(name.startswith(found + one) for name in names)), None)
        if more is None:
            return found
        found += more
    return found


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the config that speaks of the language model."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), dict):
            return config[key]  # type: ignore[no-any-return]
    return config


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    for part in (_text(config), config):
        for key in keys:
            if type(part.get(key)) is int:
                return int(part[key])
    return None


def architecture(config: Mapping[str, Any]) -> str:
    """Return the first architecture that the config names; empty where it names none."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def _layers(
    path: str, tensors: Sequence[Tensor], config: Mapping[str, Any], origin: Origin, files: tuple[str, ...]
) -> Iterator[Finding]:
    stacks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for tensor in tensors:
        found = _LAYER.fullmatch(tensor.name)
        if found is not None:
            stacks[found["stack"]][int(found["number"])].add(found["rest"])
    for stack, layers in stacks.items():
        yield from _lacking(path, stack, layers, origin, files)
    wanted = _number(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    main = [stack for stack in stacks if not _ELSEWHERE.search(stack)]
    if (
        wanted is None
        or not 0 < wanted <= _MOST_LAYERS
        or len(main) != 1
        or config.get("is_encoder_decoder")
        or "vision_config" in config
    ):
        return
    layers = stacks[main[0]]
    extra = _number(config, "num_nextn_predict_layers") or 0
    missing = [number for number in range(wanted) if number not in layers]
    if missing:
        seen = f"{_some(missing)} of {wanted} layers (`{main[0]}`) are not there"
        yield finding("FV304", path, seen, origin=origin, fetch=files)
    elif max(layers) >= wanted + extra:
        yield finding("FV305", path, f"{max(layers) + 1} layers, the config says {wanted}", origin=origin)


def _lacking(
    path: str, stack: str, layers: Mapping[int, set[str]], origin: Origin, files: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield layers whose names are a strict subset of the usual ones; a recurring pattern is the architecture's own."""
    counts = Counter(frozenset(rest) for rest in layers.values())
    usual = max(counts, key=lambda rest: (counts[rest], len(rest)))
    for rest, count in counts.items():
        if rest < usual and count <= max(1, len(layers) // 8):
            number = next(number for number, one in layers.items() if one == rest)
            lost = sorted(usual - rest)
            seen = f"`{stack}.{number}` lacks {_some([f'`{name}`' for name in lost])}"
            yield finding("FV303", path, seen, origin=origin, fetch=files)


def _embedding(path: str, tensors: Sequence[Tensor], config: Mapping[str, Any], origin: Origin) -> Iterator[Finding]:
    vocabulary = _number(config, "vocab_size")
    width = _number(config, "hidden_size", "n_embd", "d_model")
    other = {_number(config, "word_embed_proj_dim"), _number(config, "embedding_size")} - {None}
    if "vision_config" in config and _text(config) is config:
        return
    for tensor in tensors:
        if not _EMBEDDING.fullmatch(tensor.name) or _ELSEWHERE.search(tensor.name):
            continue
        if len(tensor.shape) != 2 or tensor.dtype not in _FLOATS:
            continue
        rows, columns = tensor.shape
        bad_rows = vocabulary is not None and rows < vocabulary
        if bad_rows or (width is not None and columns not in {width, *other}):
            seen = f"`{tensor.name}` is {list(tensor.shape)}, the config says [{vocabulary}, {width}]"
            yield finding("FV306", path, seen, origin=origin, fetch=("config.json",))
        return


def embedding_rows(tensors: Sequence[Tensor]) -> int | None:
    """Return how many words the embedding holds; None where there is not exactly one."""
    found = [
        one.shape[0]
        for one in tensors
        if _EMBEDDING.fullmatch(one.name) and len(one.shape) == 2 and one.dtype in _FLOATS and one.elements
    ]
    return found[0] if len(found) == 1 else None


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Return whether head and embedding are one; None where the config does not say: many types default to yes."""
    parts = (config, _text(config))
    said = {part["tie_word_embeddings"] for part in parts if isinstance(part.get("tie_word_embeddings"), bool)}
    return True if True in said else False if False in said else None


def has_head(tensors: Sequence[Tensor]) -> bool:
    """Tell whether a head's tensor is among them."""
    return any(_HEAD.fullmatch(tensor.name) for tensor in tensors)


def _head(
    path: str, tensors: Sequence[Tensor], config: Mapping[str, Any], origin: Origin, files: tuple[str, ...]
) -> Iterator[Finding]:
    named = architecture(config)
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        if has_head(tensors):
            return
        tied = is_tied(config)
        vocabulary, width = _number(config, "vocab_size"), _number(config, "hidden_size", "n_embd")
        if tied is False:
            lost = f"`lm_head.weight` of shape [{vocabulary}, {width}]"
            seen = f"`{named}` with `tie_word_embeddings: false` has no {lost}"
            yield finding("FV301", path, seen, origin=origin, fetch=files)
        elif tied is None:
            yield finding("FV302", path, f"`{named}`; the config does not name `tie_word_embeddings`", origin=origin)
    elif named.endswith("Model") and not has_head(tensors):
        yield finding("FV315", path, f"the architecture is `{named}`", origin=origin)


def _some(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:4])
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4:,} more"


# torchtune writes the halves in small letters.
_HALF = re.compile(r"(.+)\.lora_(?:embedding_)?([ABab])(?:\.\w+)?(?:\.weight)?")


def judge_adapter(
    path: str, tensors: Sequence[Tensor], config: Mapping[str, Any] | None, origin: Origin
) -> Iterator[Finding]:
    """Yield what is wrong with a LoRA adapter: empty, halves of pairs, ranks, modules without a pair."""
    empty = list(judge_empty(path, tensors, origin))
    if empty:
        yield from empty
        return
    config = config or {}
    if config.get("peft_type", "LORA") != "LORA":
        return
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for tensor in tensors:
        found = _HALF.fullmatch(tensor.name)
        if found is not None:
            halves[found[1]][found[2].upper()] = tensor
    single = [module for module, pair in halves.items() if len(pair) < 2]
    if single:
        lost = "B" if "A" in halves[single[0]] else "A"
        seen = f"{len(single):,} of {len(halves):,} modules, such as `{single[0][:120]}`, which lacks its {lost}"
        yield finding("FV311", path, seen, origin=origin)
    yield from _ranks(path, halves, config, origin)
    targets = config.get("target_modules")
    if isinstance(targets, list) and not config.get("layers_to_transform"):
        lost_targets = [
            one for one in targets if isinstance(one, str) and not any(_ends(module, one) for module in halves)
        ]
        if lost_targets:
            seen = f"no tensors for the target {_some([f'`{one[:80]}`' for one in lost_targets])}"
            yield finding("FV311", path, seen, origin=origin)


def _ends(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _ranks(
    path: str, halves: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any], origin: Origin
) -> Iterator[Finding]:
    rank, pattern = config.get("r"), config.get("rank_pattern")
    if type(rank) is not int:
        return
    own = pattern if isinstance(pattern, dict) else {}
    for module, pair in halves.items():
        wanted = next((value for key, value in own.items() if _ends(module, key)), None if own else rank)
        if wanted is None:
            # A pattern may be a regular expression of its own making: take the rank where the halves agree.
            wanted = rank if not _agree(pair) else pair["A"].shape[0]
        for half, side in (("A", 0), ("B", 1)):
            tensor = pair.get(half)
            if tensor is not None and len(tensor.shape) == 2 and tensor.shape[side] != wanted:
                seen = f"`{tensor.name[:120]}` is {list(tensor.shape)}, the rank is {wanted}"
                yield finding("FV310", path, seen, origin=origin)
                return


def _agree(pair: Mapping[str, Tensor]) -> bool:
    a, b = pair.get("A"), pair.get("B")
    return a is not None and b is not None and len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
