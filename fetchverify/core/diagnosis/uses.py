"""Can this folder serve that use? Judged from layouts, config and what was found wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from fetchverify.core.diagnosis import layouts
from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.findings import Finding, Place, Severity
from fetchverify.core.diagnosis.tensorrules import architecture

Use: TypeAlias = Literal["causal-lm", "adapter", "embedding", "vllm", "diffusers"]
USES: tuple[Use, ...] = ("causal-lm", "adapter", "embedding", "vllm", "diffusers")

_WANTED: dict[Use, str] = {
    "causal-lm": layouts.HF,
    "adapter": layouts.PEFT,
    "embedding": layouts.HF,
    "vllm": layouts.HF,
    "diffusers": layouts.DIFFUSERS,
}
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def judge_use(
    use: Use, places: Iterable[Place], config: Mapping[str, Any] | None, findings: Iterable[Finding]
) -> tuple[Finding, ...]:
    """Return why the folder cannot serve the use; nothing where it can.

    Args:
        use: what is asked for.
        places: the layouts found; the topmost folder is the one that is loaded.
        config: its `config.json`.
        findings: what was found wrong.
    """
    places = tuple(places)
    here = {place.layout for place in places if place.path == "." or place.layout == layouts.ONE_FILE}
    lacks = []
    if _WANTED[use] not in here:
        found = ", ".join(sorted(here)) or "no known layout"
        deeper = next((f"; `{place.path}` has it" for place in places if place.layout == _WANTED[use]), "")
        lacks.append(f"`{use}` needs the layout of {_WANTED[use]}, this is {found}{deeper}")
    elif use in {"causal-lm", "vllm"}:
        named = architecture(config or {})
        if not named.endswith(_GENERATES):
            lacks.append(f"`{use}` needs a model that generates, the architecture is `{named or 'not named'}`")
        if use == "vllm" and any(one.code == "FV208" for one in findings):
            lacks.append("`vllm` needs the tokenizer in the folder")
    errors = sorted({one.code for one in findings if one.severity is Severity.ERROR})
    if errors:
        lacks.append(f"errors were found: {', '.join(errors)}")
    return tuple(finding("FV601", ".", lack) for lack in lacks)
