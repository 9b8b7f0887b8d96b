"""Folders of the real libraries: whole ones are healthy, and each way to damage one has its code."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import click
import pytest

from fetchverify.cli import cli
from fetchverify.commands.doctor import DoctorOptions, run
from fetchverify.core.diagnosis.codes import RULES, explain
from fetchverify.core.diagnosis.facts import Content, Entry, FileSeen, Slice, Sniffed, Tensor
from fetchverify.core.diagnosis.findings import Diagnosis, Finding, Origin, Severity
from fetchverify.core.diagnosis.layouts import STACK_ADAPTER, STACK_META, FolderSeen
from fetchverify.core.diagnosis.trainrules import judge_dcp, judge_verl
from fetchverify.formats import dcp
from fetchverify.formats.source import Bytes
from tests.models.folders import HEALTHY, HERE, copy
from tests.unit.diagnosis.damages import ONE_FOLDER, edit_json
from tests.unit.formats.damage import ONE_FILE


def diagnose(path: Path | str, **options: Any) -> Diagnosis:
    return anyio.run(run, DoctorOptions(what=str(path), **options), lambda event: None)


def codes(found: Diagnosis, *, notes: bool = False) -> set[str]:
    return {one.code for one in found.findings if notes or one.severity is not Severity.INFO}


LAYOUTS = {
    "accelerate": {"distributed checkpoint"},
    "dcp": {"distributed checkpoint"},
    "dcp-optim": {"distributed checkpoint"},
    "diffusers": {"diffusers", "diffusers component"},
    "gguf": {"GGUF"},
    "gguf-split": {"GGUF"},
    "hf": {"transformers"},
    "hf-bin": {"transformers"},
    "hf-bin-old": {"transformers"},
    "hf-no-head": {"transformers"},
    "hf-sharded": {"transformers"},
    "hf-tied": {"transformers"},
    "llama-stack-hf": {STACK_ADAPTER, "PEFT adapter"},
    "llama-stack-meta": {STACK_META},
    "llama-stack-meta-alone": {STACK_META},
    "meta": {"Meta"},
    "meta-2": {"Meta"},
    "peft": {"PEFT adapter"},
    "peft-untrained": {"PEFT adapter"},
    "trainer-lora": {"PEFT adapter"},
    "verl": {"verl", "tokenizer"},
    "zero": {"DeepSpeed ZeRO"},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_folder_raises_no_alarm(name: str, tmp_path: Path) -> None:
    found = diagnose(copy(name, tmp_path))
    expected = {"FV314"} if name == "peft-untrained" else set()
    assert expected == codes(found)
    assert LAYOUTS[name] == {place.layout for place in found.places}
    assert 0 == found.exit_code


@pytest.mark.parametrize("name", ONE_FILE)
def test_each_damage_to_one_file_is_named(name: str, tmp_path: Path) -> None:
    make, code = ONE_FILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    found = diagnose(path)
    assert code in codes(found)
    assert 1 == found.exit_code
    assert () == tuple(one for one in found.findings if one.path != "model.safetensors")


@pytest.mark.parametrize("name", ONE_FOLDER)
def test_each_damage_to_a_folder_is_named(name: str, tmp_path: Path) -> None:
    which, damage, code = ONE_FOLDER[name]
    if name == "Meta's parts disagree":
        copy("meta", tmp_path)
    folder = copy(which, tmp_path / "here")
    damage(folder)
    found = diagnose(folder)
    assert code in codes(found)
    expected = 1 if any(one.severity is Severity.ERROR for one in found.findings) else 0
    assert expected == found.exit_code


def test_chunks_that_leave_a_part_uncovered_are_named() -> None:
    told = dcp.read_dcp(Bytes((HERE / "dcp-optim" / ".metadata").read_bytes()))
    name = told.tensors[0].name
    for chunks in ((), (((0, 0), (31, 16)),), (((1, 0), (32, 16)),)):
        seen = FileSeen(
            entry=Entry(path=".metadata", size=1),
            sniffed=Sniffed(content=Content.PICKLE),
            dcp=replace(told, chunks={**told.chunks, name: chunks}),
        )
        folder = FolderSeen(path=".", files={".metadata": seen}, folders=frozenset(), origin=Origin())
        assert ["FV402", "FV404", "FV408"] == [one.code for one in judge_dcp(folder)]


@pytest.mark.parametrize(
    ("sides", "shapes", "whole"),
    [
        ((0,), [(16, 16), (16, 16)], True),
        ((0,), [(17, 16), (15, 16)], True),  # the last rank has the rest
        ((-2,), [(16, 16), (16, 16)], True),
        ((0,), [(16, 16), (15, 16)], False),
        ((0,), [(16, 16), (16, 15)], False),
        ((0,), [(32, 16), (32, 16)], False),
        ((1,), [(32, 8), (32, 8)], True),
        ((None,), [(32, 16), (32, 16)], True),
        ((None,), [(32, 16), (16, 16)], False),
        ((None, 0), [(16, 16), (16, 16)], True),  # replicas of slices
        ((None, 0), [(16, 16), (33, 16)], False),
        ((7,), [(16, 16), (16, 16)], False),
        ((0,), [(16,), (16,)], False),
    ],
)
def test_slices_make_up_the_whole_or_are_named(
    sides: tuple[int | None, ...], shapes: list[tuple[int, ...]], whole: bool
) -> None:
    files = {
        f"model_world_size_2_rank_{rank}.pt": FileSeen(
            entry=Entry(path=f"{rank}", size=1),
            sniffed=Sniffed(content=Content.ZIP),
            tensors=(Tensor("w", "BF16", shape),),
            value={"w": Slice((32, 16), sides)},
        )
        for rank, shape in enumerate(shapes)
    }
    folder = FolderSeen(path=".", files=files, folders=frozenset(), origin=Origin())
    assert (["FV408"] if whole else ["FV407", "FV408"]) == [one.code for one in judge_verl(folder)]


@pytest.mark.parametrize("name", ["accelerate", "dcp", "dcp-optim", "zero", "verl"])
def test_a_training_checkpoint_is_said_to_need_conversion(name: str, tmp_path: Path) -> None:
    assert {"FV408"} == codes(diagnose(copy(name, tmp_path)), notes=True)


def test_a_folder_of_hidden_states_says_that_it_has_no_head(tmp_path: Path) -> None:
    assert {"FV315"} == codes(diagnose(copy("hf-no-head", tmp_path)), notes=True)


def test_an_absent_tie_is_not_false(tmp_path: Path) -> None:
    """Most model types tie by default: where the config is silent nothing is known."""
    folder = copy("hf-tied", tmp_path)
    edit_json(folder / "config.json", tie_word_embeddings=None)
    found = diagnose(folder)
    assert "FV302" in codes(found, notes=True)
    assert set() == codes(found)
    edit_json(folder / "config.json", text_config={"tie_word_embeddings": True})
    assert "FV302" not in codes(diagnose(folder), notes=True)


def test_padding_of_the_vocabulary_is_allowed(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    edit_json(folder / "config.json", vocab_size=30)
    assert set() == codes(diagnose(folder))


def test_a_pointer_tells_what_belongs_here(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    (folder / "model.safetensors").write_bytes(ONE_FILE["LFS pointer"][0]())
    (found,) = [one for one in diagnose(folder).findings if one.code == "FV101"]
    assert "a Git LFS pointer to 4,976,698,672 bytes with sha256 `abababababab…`" == found.seen
    assert f"get the content: `fetchverify get REPO_ID model.safetensors --to {folder}`" == found.remedy


def commands_in(one: Finding) -> list[str]:
    return re.findall(r"`(fetchverify [^`]+)`", one.remedy)


@pytest.mark.parametrize("code", RULES)
def test_every_code_is_explained_and_its_commands_can_be_parsed(code: str) -> None:
    text = explain(code)
    assert text is not None
    for line in re.findall(r"`(fetchverify [^`]+)`", text):
        words = shlex.split(line)
        with click.Context(cli) as ctx:
            command = cli.get_command(ctx, words[1])
        assert command is not None
        command.make_context(words[1], words[2:])


def test_the_parts_of_sentence_transformers_are_no_models(tmp_path: Path) -> None:
    folder = copy("hf-no-head", tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16}')
    (folder / "modules.json").write_text("[]")
    assert set() == codes(diagnose(folder))


def test_metas_own_sums_are_compared_where_they_lie_beside_the_parts(tmp_path: Path) -> None:
    folder = copy("meta", tmp_path)
    parts = ("consolidated.00.pth", "params.json", "tokenizer.model")
    sums = [f"{hashlib.md5((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in parts]
    (folder / "checklist.chk").write_text("".join(sums))
    found = diagnose(folder)
    assert set() == codes(found)
    assert "3 digests" in found.checked


def test_a_model_that_sees_should_have_a_chat_template(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    named = {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}, "text_config": {}}
    edit_json(folder / "config.json", **named)
    (folder / "processor_config.json").write_text("{}")
    assert "FV224" in codes(diagnose(folder), notes=True)
    assert set() == codes(diagnose(folder))
    (folder / "chat_template.jinja").write_text("x")
    assert "FV224" not in codes(diagnose(folder), notes=True)
    (folder / "chat_template.jinja").unlink()
    (folder / "processor_config.json").write_text('{"chat_template": "x"}')
    assert "FV224" not in codes(diagnose(folder), notes=True)


@pytest.mark.parametrize(
    "kept", [("tokenizer.model",), ("vocab.json", "merges.txt"), ("spiece.model",), ("vocab.txt",)]
)
def test_every_form_of_a_tokenizer_is_one(kept: tuple[str, ...], tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    (folder / "tokenizer.json").unlink()
    for name in kept:
        (folder / name).write_text("{}" if name.endswith("json") else "a b\n")
    assert set() == codes(diagnose(folder))
    (folder / kept[0]).unlink()
    assert {"FV208"} == codes(diagnose(folder))


def test_a_component_that_is_null_is_not_missing(tmp_path: Path) -> None:
    folder = copy("diffusers", tmp_path)
    edit_json(folder / "model_index.json", safety_checker=[None, None], feature_extractor=[None, None])
    assert set() == codes(diagnose(folder))
    edit_json(folder / "model_index.json", safety_checker=["x", "SafetyChecker"])
    assert {"FV214"} == codes(diagnose(folder))


def test_stages_1_and_2_of_zero_keep_one_file_of_the_models_states(tmp_path: Path) -> None:
    folder = copy("zero", tmp_path)
    step = folder / "global_step2"
    (step / "zero_pp_rank_0_mp_rank_00_model_states.pt").rename(step / "mp_rank_00_model_states.pt")
    (step / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    assert {"FV408"} == codes(diagnose(folder), notes=True)
    (step / "mp_rank_00_model_states.pt").unlink()
    assert {"FV406"} == codes(diagnose(folder))


def test_a_base_that_nothing_names_is_left_open(tmp_path: Path) -> None:
    folder = copy("dcp", tmp_path)
    (notes,) = folder.rglob("train_params.yaml")
    for text in (
        None,
        "",
        "- a\n",
        "model_name: ../../etc/passwd\n",
        "model_name: ../..\n",
        "model_name: --force\n",
        "model_name: [a]\n",
    ):
        notes.unlink(missing_ok=True) if text is None else notes.write_text(text)
        (found,) = [one for one in diagnose(folder).findings if one.code == "FV408"]
        assert "fetchverify get REPO_ID --include config.json" in found.remedy


def test_mistrals_own_layout_is_not_taken_for_metas(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    (folder / "params.json").write_text("{}")
    assert set() == codes(diagnose(folder))


def test_the_original_beside_hfs_layout_is_as_the_hub_has_it(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    shutil.copytree(HERE / "meta", folder / "original")
    found = diagnose(folder)
    assert (set(), {"FV219"}) == (codes(found), codes(found, notes=True))
