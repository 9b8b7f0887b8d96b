"""Will the end of a training leave a model? Judged from Accelerate's YAML or DeepSpeed's JSON, before it begins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.findings import Finding

GATHER = "stage3_gather_16bit_weights_on_model_save"
# One of these is in whatever `accelerate config` writes, and in any config that DeepSpeed takes.
_KEYS = frozenset(
    {"compute_environment", "distributed_type", "num_processes", "deepspeed_config", "fsdp_config", "mixed_precision"}
    | {"zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    | {"optimizer", "scheduler", "fp16", "bf16", "use_cpu", "num_machines", "debug"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is known of the machine and its packages.

    Attributes:
        gpus: None where none is seen: a login node has none, the training's machine may.
        versions: of packages, by their names; those that are not installed are absent.
    """

    gpus: int | None
    versions: Mapping[str, str]


def judge_training(path: str, config: Mapping[str, Any], machine: Machine) -> Iterator[Finding]:
    """Yield what the config will do at the end.

    Args:
        path: of the config.
        config: Accelerate's, or DeepSpeed's, as read.
        machine: where it was looked at.
    """
    if not _KEYS & config.keys():
        yield finding("FV416", path, "it has no key of Accelerate's or DeepSpeed's")
        return
    accelerate = "distributed_type" in config or "deepspeed_config" in config or "num_processes" in config
    stage, gathers, key = _accelerate(config) if accelerate else _deepspeed(config)
    if stage == 3 and not gathers:
        yield finding("FV410", path, f"ZeRO stage 3, and `{key}` is not true")
    if stage == 3:
        yield from _versions(path, machine)
    if accelerate:
        yield from _processes(path, config, machine)
        if config.get("debug") is not True:
            yield finding("FV411", path, "`debug` is not true")


def _accelerate(config: Mapping[str, Any]) -> tuple[int | None, bool, str]:
    inner = config.get("deepspeed_config")
    inner = inner if isinstance(inner, Mapping) else {}
    if str(config.get("distributed_type", "")).upper() not in {"DEEPSPEED", ""}:
        return None, True, ""
    stage = inner.get("zero_stage")
    return stage if type(stage) is int else None, inner.get("zero3_save_16bit_model") is True, "zero3_save_16bit_model"


def _deepspeed(config: Mapping[str, Any]) -> tuple[int | None, bool, str]:
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    stage = zero.get("stage")
    return stage if type(stage) is int else None, zero.get(GATHER) is True, f"zero_optimization.{GATHER}"


def _versions(path: str, machine: Machine) -> Iterator[Finding]:
    version = machine.versions.get("transformers")
    major = re.match(r"\d+", version or "")
    if version is not None and major is not None and int(major[0]) < 5:
        yield finding("FV414", path, f"transformers {version} is installed, and the config asks for ZeRO stage 3")


def _processes(path: str, config: Mapping[str, Any], machine: Machine) -> Iterator[Finding]:
    processes, machines = config.get("num_processes"), config.get("num_machines")
    if type(processes) is not int or config.get("use_cpu") is True or not machine.gpus:
        return
    here = processes // machines if type(machines) is int and machines > 0 else processes
    if here > machine.gpus:
        yield finding("FV412", path, f"{here} processes on this machine, {machine.gpus} GPUs are seen")
