"""`fetchverify doctor` as it is typed: the five cases that users arrive with, exit codes, JSON."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from mock_server import MockHub, World
from tests.models.folders import HERE, copy
from tests.unit.diagnosis.damages import clear, drop, rewrite
from tests.unit.formats.damage import POINTER


def doctor(*words: str | Path, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "fetchverify", "doctor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**env, "HF_HOME": str(home), **more},
        check=False,
    )


def test_case_1_pointers_and_a_cut_shard_behind_header_too_large(tmp_path: Path) -> None:
    folder = copy("hf-sharded", tmp_path)
    (folder / "model-00001-of-00003.safetensors").write_bytes(POINTER)
    cut = folder / "model-00002-of-00003.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    done = doctor(folder, home=tmp_path)
    assert 1 == done.returncode
    assert "error FV101: a pointer instead of the content: model-00001-of-00003.safetensors" in done.stdout
    assert "error FV108: cut short within the data: model-00002-of-00003.safetensors" in done.stdout
    assert f"`fetchverify get REPO_ID model-00001-of-00003.safetensors --to {folder}`" in done.stdout
    cut.unlink()
    assert "error FV203: shards are missing" in doctor(folder, home=tmp_path).stdout
    # The cache may be at fault, too: its blobs' names say what they should hold.
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("a" * 40)
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in (HERE / "hf-sharded").iterdir():
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}")
        flipped = data[:-1] + bytes([data[-1] ^ 1]) if "00003" in path.name else data
        (blobs / digest).write_bytes(flipped[:-100] if "00002" in path.name else flipped)
    done = doctor("org/name", home=tmp_path)
    assert 1 == done.returncode
    assert "error FV108: cut short within the data: model-00002-of-00003.safetensors" in done.stdout
    assert "error FV116: other bytes than were promised: model-00003-of-00003.safetensors" in done.stdout
    assert "`fetchverify get org/name model-00002-of-00003.safetensors`" in done.stdout


def test_case_2_an_empty_adapter_whose_weights_lie_in_global_step(tmp_path: Path) -> None:
    folder = copy("peft", tmp_path)
    rewrite(folder / "adapter_model.safetensors", clear)
    copy("zero", tmp_path)
    for path in (tmp_path / "zero").iterdir():
        path.rename(folder / path.name)
    done = doctor(folder, home=tmp_path)
    assert 1 == done.returncode
    assert "error FV309: no tensor at all: adapter_model.safetensors" in done.stdout
    assert "info FV415: the weights are still here: global_step2" in done.stdout
    config = tmp_path / "zero3.yaml"
    config.write_text(
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\n  zero3_save_16bit_model: false\n"
    )
    done = doctor("--accelerate", config, home=tmp_path)
    assert 1 == done.returncode
    assert "error FV410" in done.stdout
    assert "info FV411" in done.stdout
    eight = "distributed_type: DEEPSPEED\nnum_processes: 8\nnum_machines: 1\ndebug: true\ndeepspeed_config:\n"
    config.write_text(f"{eight}  zero_stage: 3\n  zero3_save_16bit_model: true\n")
    done = doctor("--accelerate", config, home=tmp_path, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert (1, 1) == (done.returncode, done.stdout.count("error FV412"))
    assert "8 processes on this machine, 4 GPUs are seen" in done.stdout
    done = doctor("--accelerate", config, home=tmp_path, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7")
    assert 0 == done.stdout.count("error FV412")


def test_case_3_a_base_in_metas_own_layout(tmp_path: Path) -> None:
    done = doctor(copy("meta", tmp_path), "--for", "causal-lm", home=tmp_path)
    assert 1 == done.returncode
    assert "info FV219: Meta's own layout: ." in done.stdout
    assert "no config.json, tokenizer.json, tokenizer_config.json" in done.stdout
    assert "`fetchverify get REPO_ID --layout hf`" in done.stdout
    assert "it cannot serve that use" in done.stdout


def test_case_4_a_saved_llama_without_its_head(tmp_path: Path) -> None:
    lost = copy("hf-sharded", tmp_path / "lost")
    rewrite(lost / "model-00003-of-00003.safetensors", drop("lm_head"))
    index = lost / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    del value["weight_map"]["lm_head.weight"]
    index.write_text(json.dumps(value))
    done = doctor(lost, home=tmp_path)
    assert 1 == done.returncode
    assert "error FV301: the head is missing" in done.stdout
    assert "`lm_head.weight` of shape [32, 16]" in done.stdout
    assert "AutoModelForCausalLM" in done.stdout
    tied = doctor(copy("hf-tied", tmp_path), home=tmp_path)
    assert 0 == tied.returncode
    assert "FV301" not in tied.stdout
    world = World()
    world.add("org/whole", {path.name: path.read_bytes() for path in (HERE / "hf-sharded").iterdir()})
    with MockHub(world) as hub:
        done = doctor(lost, "--against", "org/whole", "--endpoint", hub.endpoint, home=tmp_path)
    assert 1 == done.returncode
    assert "error FV320: tensors that the repo has are missing: .\n  seen: 1 of 21: `lm_head.weight`" in done.stdout
    assert f"`fetchverify get org/whole model-00003-of-00003.safetensors --to {lost}`" in done.stdout


def test_case_5_a_full_fine_tune_left_distributed_files(tmp_path: Path) -> None:
    folder = copy("dcp", tmp_path)
    asked = folder / "fine-tuned"  # the trainer made `fine-tuned-meta-llama/tiny` of it
    done = doctor(asked, home=tmp_path)
    assert 0 == done.returncode
    assert f"warning FV413: the checkpoint lies in another folder than asked: {asked}-meta-llama/tiny" in done.stdout
    assert "its base is `meta-llama/tiny`" in done.stdout
    assert "`fetchverify get meta-llama/tiny --include config.json" in done.stdout


def test_a_healthy_folder_is_one_line_and_exit_code_0(tmp_path: Path) -> None:
    done = doctor(copy("hf", tmp_path), "-q", home=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(
        "healthy (transformers): checked the first bytes of 5 files, 1 header with 21 tensors"
    )
    assert 1 == done.stdout.count("\n")


def test_json_is_one_object_with_every_finding(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    (folder / "config.json").unlink()
    done = doctor(folder, "--json", home=tmp_path)
    (line,) = done.stdout.splitlines()
    body = json.loads(line)
    assert ("Diagnosis", 1, ["FV201"]) == (body["kind"], body["exit_code"], [one["code"] for one in body["findings"]])


def test_what_is_not_there_and_what_makes_no_sense(tmp_path: Path) -> None:
    assert 3 == doctor("org/absent", home=tmp_path).returncode
    assert 3 == doctor(tmp_path / "absent", home=tmp_path).returncode
    assert 2 == doctor(home=tmp_path).returncode
    assert 2 == doctor("--explain", "FV999", home=tmp_path).returncode
    done = doctor("--explain", "fv301", home=tmp_path)
    assert 0 == done.returncode
    assert done.stdout.startswith("FV301 (error): the head is missing")


def test_env_prints_the_versions_that_matter_and_warns_of_an_old_transformers(tmp_path: Path) -> None:
    for name, version in (("transformers", "4.57.1"), ("peft", "0.18.0")):
        note = tmp_path / "site" / f"{name}-{version}.dist-info"
        note.mkdir(parents=True)
        (note / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    path = os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH", ""), os.getcwd())))
    done = doctor("--env", home=tmp_path, PYTHONPATH=path)
    assert 0 == done.returncode
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    packages = {"transformers", "peft", "accelerate", "deepspeed", "safetensors", "torch"}
    assert packages <= told.keys()
    assert ("4.57.1", "0.18.0") == (told["transformers"], told["peft"])
    assert "with ZeRO-3 this transformers saves adapters empty" in done.stdout
    body = json.loads(doctor("--env", "--json", home=tmp_path, PYTHONPATH=path).stdout)
    assert "4.57.1" == body["versions"]["transformers"]


def test_a_name_in_the_folder_cannot_move_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "x\x1b[2J.safetensors").write_bytes(POINTER)
    assert "\x1b" not in doctor(tmp_path, home=tmp_path).stdout
