"""What Llama-Stack's training leaves: which form it is, what it lacks, and the base that a save in HF's form needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fetchverify.core.diagnosis.findings import Finding, Severity
from fetchverify.formats import torchfile
from fetchverify.formats.source import Bytes
from tests.models.folders import HERE, copy
from tests.unit.diagnosis.damages import STACK_HF, STACK_META, edit_json, gone
from tests.unit.diagnosis.test_diagnosis_folders import codes, diagnose


def only(path: Path, code: str) -> Finding:
    (found,) = [one for one in diagnose(path).findings if one.code == code]
    return found


@pytest.mark.parametrize("inside", [True, False])
def test_which_form_it_is_and_which_base_it_needs_is_said(inside: bool, tmp_path: Path) -> None:
    """The same, whether the epoch's folder is named or one above it."""
    folder = copy("llama-stack-meta", tmp_path) / (STACK_META if inside else "")
    assert only(folder, "FV220").seen == (
        "the whole model after epoch 0, with its adapter in `adapter/adapter.pth`; "
        "its base is `meta-llama/Llama-3.2-1B-Instruct`"
    )
    alone = copy("llama-stack-meta-alone", tmp_path) / ("Llama3.2-1B-Instruct-sft-1" if inside else "")
    assert "after epoch 1, without an adapter beside it" in only(alone, "FV220").seen
    adapter = copy("llama-stack-hf", tmp_path) / (STACK_HF if inside else "")
    assert "an adapter after epoch 0, no weights of the model" in only(adapter, "FV221").seen
    assert "`fetchverify get meta-llama/Llama-3.2-1B-Instruct --include" in only(adapter, "FV221").remedy


def test_a_folder_of_another_name_is_told_by_its_adapter(tmp_path: Path) -> None:
    meta = copy("llama-stack-meta", tmp_path) / STACK_META
    hf = copy("llama-stack-hf", tmp_path) / STACK_HF
    for folder, code in ((meta, "FV220"), (hf, "FV221")):
        found = diagnose(folder.rename(tmp_path / code))
        assert {code} == codes(found, notes=True)
        assert all("its base" not in one.seen for one in found.findings)


def test_the_adapters_own_word_on_its_base_comes_first(tmp_path: Path) -> None:
    folder = copy("llama-stack-hf", tmp_path)
    edit_json(folder / STACK_HF / "adapter" / "adapter_config.json", base_model_name_or_path="me/mine")
    assert only(folder, "FV221").seen.endswith("its base is `me/mine`")
    for odd in ("--include=x", "-x/y", "../..", "/srv/models/base", "a/b; id", 3):
        edit_json(folder / STACK_HF / "adapter" / "adapter_config.json", base_model_name_or_path=odd)
        assert only(folder, "FV221").seen.endswith("its base is `meta-llama/Llama-3.2-1B-Instruct`")


def test_a_fine_tuned_model_is_not_to_be_replaced_by_its_base(tmp_path: Path) -> None:
    """What mends a download of Meta's layout would throw the training away."""
    assert "FV219" not in codes(diagnose(copy("llama-stack-meta", tmp_path)), notes=True)


@pytest.mark.parametrize("lost", ["adapter", "adapter_model.pt"])
def test_one_of_the_two_adapters_is_enough_to_know_the_form(lost: str, tmp_path: Path) -> None:
    folder = copy("llama-stack-hf", tmp_path)
    gone(f"{STACK_HF}/{lost}")(folder)
    assert ({"FV222"} if lost == "adapter" else set()) == codes(diagnose(folder))


def test_an_adapter_that_was_never_trained_is_said_to_be_so_in_torchtunes_names_too(tmp_path: Path) -> None:
    folder = copy("llama-stack-meta", tmp_path) / STACK_META / "adapter"
    raw = bytearray((folder / "adapter.pth").read_bytes())
    for tensor in torchfile.read_torch(Bytes(bytes(raw))).tensors:
        if "lora_b" in tensor.name:
            raw[tensor.start : tensor.stop] = bytes(tensor.stop - tensor.start)
    (folder / "adapter.pth").write_bytes(raw)
    assert {"FV314", "FV118"} == codes(diagnose(folder.parent))


def base(tmp_path: Path) -> Path:
    """Return a base as Llama-Stack trains from it: HF's small files, Meta's weights in `original`."""
    folder = copy("hf", tmp_path)
    shutil.copytree(HERE / "meta", folder / "original")
    return folder


def test_a_base_that_lacks_config_json_is_named_with_all_that_a_save_in_hfs_form_needs(tmp_path: Path) -> None:
    found = only(copy("meta", tmp_path), "FV219")
    assert found.seen == (
        "1 of Meta's parts, no config.json, tokenizer.json, tokenizer_config.json; "
        "a fine-tuned model cannot be saved in HF's form from here"
    )


def test_a_base_without_hfs_weights_can_be_trained_from(tmp_path: Path) -> None:
    folder = base(tmp_path)
    (folder / "model.safetensors").unlink()
    found = only(folder, "FV202")
    assert Severity.WARNING is found.severity
    assert "a config and no weights; Meta's form of them lies in `original`" == found.seen
    assert 0 == diagnose(folder).exit_code


def test_an_original_whose_weights_were_left_out_is_no_damage(tmp_path: Path) -> None:
    """`--layout hf` and torchtune's own downloads leave the heavy half out."""
    folder = base(tmp_path)
    (folder / "original" / "consolidated.00.pth").unlink()
    assert set() == codes(diagnose(folder), notes=True)
    (folder / "model.safetensors").unlink()
    assert {"FV202"} == codes(diagnose(folder))
    assert 1 == diagnose(folder).exit_code
