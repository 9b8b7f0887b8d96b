from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from fetchverify.commands.doctor import run_training
from fetchverify.core.diagnosis.trainconfig import Machine, judge_training
from fetchverify.core.diagnosis.uses import USES, Use
from tests.models.folders import copy
from tests.unit.diagnosis.damages import drop, edit_json, rewrite
from tests.unit.diagnosis.test_diagnosis_folders import codes, diagnose

ACCELERATE = """\
compute_environment: LOCAL_MACHINE
debug: {debug}
deepspeed_config:
  gradient_accumulation_steps: 1
  zero3_init_flag: true
  zero3_save_16bit_model: {save}
  zero_stage: {stage}
distributed_type: DEEPSPEED
num_machines: 2
num_processes: 16
use_cpu: false
"""


def accelerate(path: Path, *, debug: str = "true", save: str = "true", stage: int = 3) -> set[str]:
    path.write_text(ACCELERATE.format(debug=debug, save=save, stage=stage))
    return codes(anyio.run(run_training, path), notes=True)


def test_a_zero3_save_without_gathering_is_foretold(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    known = {"FV414"} & accelerate(path)  # this interpreter's own transformers, if any
    assert known == accelerate(path)
    assert {"FV410", *known} == accelerate(path, save="false")
    assert set() == accelerate(path, save="false", stage=2)
    assert {"FV411", *known} == accelerate(path, debug="false")


@pytest.mark.parametrize(("gathers", "expected"), [(True, set()), (False, {"FV410"}), (None, {"FV410"})])
def test_deepspeeds_own_config_is_judged_too(gathers: bool | None, expected: set[str], tmp_path: Path) -> None:
    zero = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": gathers}
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
    assert expected == codes(anyio.run(run_training, tmp_path / "ds.json"), notes=True) - {"FV414"}
    outer = "distributed_type: DEEPSPEED\ndebug: true\ndeepspeed_config:\n  deepspeed_config_file: ds.json\n"
    (tmp_path / "outer.yaml").write_text(outer)
    assert expected == codes(anyio.run(run_training, tmp_path / "outer.yaml"), notes=True) - {"FV414"}


def test_an_old_transformers_and_too_many_processes_are_named() -> None:
    config = {"distributed_type": "DEEPSPEED", "num_processes": 8, "debug": True}
    config["deepspeed_config"] = {"zero_stage": 3, "zero3_save_16bit_model": True}
    old = Machine(gpus=4, versions={"transformers": "4.57.1"})
    assert ["FV414", "FV412"] == [one.code for one in judge_training("c", config, old)]
    new = Machine(gpus=8, versions={"transformers": "5.23.0"})
    assert [] == list(judge_training("c", config, new))


def test_a_config_that_is_none_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    assert {"FV416"} == codes(anyio.run(run_training, tmp_path / "c.json"))
    (tmp_path / "c.yaml").write_text("- a\n- b\n")
    assert {"FV416"} == codes(anyio.run(run_training, tmp_path / "c.yaml"))


SERVES: dict[str, set[Use]] = {
    "hf": {"causal-lm", "embedding", "vllm"},
    "hf-sharded": {"causal-lm", "embedding", "vllm"},
    "hf-no-head": {"embedding"},
    "peft": {"adapter"},
    "diffusers": {"diffusers"},
    "meta": set(),
    "gguf": set(),
    "dcp-optim": set(),
}


@pytest.mark.parametrize("name", SERVES)
def test_what_a_folder_can_serve_is_said(name: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    assert SERVES[name] == {use for use in USES if diagnose(folder, use=use).serves}


def test_a_broken_folder_serves_nothing(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    rewrite(folder / "model.safetensors", drop("lm_head"))
    found = diagnose(folder, use="causal-lm")
    assert {"FV301", "FV601"} == codes(found)
    assert found.serves is False
    (folder / "model.safetensors").unlink()
    edit_json(folder / "config.json", architectures=None)
    assert {"FV202", "FV601"} == codes(diagnose(folder, use="vllm"))
