"""Folders of the real libraries: whole ones are healthy, and each way to damage one has its code."""

from __future__ import annotations

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
from fetchverify.core.diagnosis.facts import Content, Entry, FileSeen, Sniffed
from fetchverify.core.diagnosis.findings import Diagnosis, Finding, Origin, Severity
from fetchverify.core.diagnosis.layouts import STACK_ADAPTER, STACK_META, FolderSeen
from fetchverify.core.diagnosis.trainrules import judge_dcp
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


@pytest.mark.parametrize("name", ["accelerate", "dcp", "dcp-optim", "zero", "verl"])
def test_a_training_checkpoint_is_said_to_need_conversion(name: str, tmp_path: Path) -> None:
    assert {"FV408"} == codes(diagnose(copy(name, tmp_path)), notes=True)


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
