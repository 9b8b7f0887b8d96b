"""`doctor --against`: a folder held against its repo's own headers, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fetchverify.commands.comparing import Against
from fetchverify.commands.doctor import DoctorOptions, run
from fetchverify.core.diagnosis.findings import Diagnosis
from fetchverify.errors import AbsentError
from fetchverify.events import ignore
from mock_server import MockHub, World
from tests.models.folders import HERE, copy
from tests.unit.diagnosis.damages import drop, edit_json, model, rewrite
from tests.unit.diagnosis.test_diagnosis_folders import codes

FILES = {path.name: path.read_bytes() for path in (HERE / "hf-sharded").iterdir()}


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/name", FILES)
    with MockHub(world) as hub:
        yield hub


def compare(hub: MockHub, folder: Path, repo: str = "org/name") -> Diagnosis:
    against = Against(repo=repo, endpoint=hub.endpoint, token="")
    return anyio.run(run, DoctorOptions(what=str(folder), against=against), ignore)


def test_the_same_folder_differs_in_nothing(hub: MockHub, tmp_path: Path) -> None:
    found = compare(hub, copy("hf-sharded", tmp_path))
    assert set() == codes(found, notes=True)
    assert "the headers of `org/name`" in found.checked


def test_the_same_weights_in_another_file_differ_in_nothing(hub: MockHub, tmp_path: Path) -> None:
    """A save of one's own lies in other shards: the tensors count."""
    assert set() == codes(compare(hub, copy("hf", tmp_path)))


def test_missing_tensors_are_named_with_the_one_file_to_fetch(hub: MockHub, tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    rewrite(folder / "model.safetensors", drop("lm_head"))
    edit_json(folder / "config.json", tie_word_embeddings=True)
    found = compare(hub, folder)
    (lost,) = [one for one in found.findings if one.code == "FV320"]
    assert "1 of 21: `lm_head.weight`" == lost.seen
    (shard,) = [name for name, data in FILES.items() if b'"lm_head.weight"' in data and name.endswith("safetensors")]
    assert f"get what differs: `fetchverify get org/name {shard} --to {folder}`" == lost.remedy


def test_a_changed_tokenizer_and_other_shapes_are_named(hub: MockHub, tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("a", "b", 1))

    def widen(tensors: dict[str, Any]) -> None:
        one, raw = tensors["model.norm.weight"]
        tensors["model.norm.weight"] = ({**one, "shape": [4, 4], "dtype": "F16"}, raw)
        tensors["extra.weight"] = tensors["model.norm.weight"]

    model()(widen)(folder)
    found = compare(hub, folder)
    assert {"FV321", "FV322", "FV323", "FV324"} == codes(found)
    (changed,) = [one for one in found.findings if one.code == "FV323"]
    assert ("tokenizer.json", "it has the repo's size, and another digest") == (changed.path, changed.seen)


def test_only_headers_are_fetched(hub: MockHub, tmp_path: Path) -> None:
    compare(hub, copy("hf-sharded", tmp_path))
    asked = [record for record in hub.ledger.requests(method="GET") if record.kind in ("resolve", "cdn")]
    assert {name for name in FILES if name.endswith(".safetensors")} == {record.file for record in asked}


def test_a_repo_that_is_not_there_is_said_to_be_so(hub: MockHub, tmp_path: Path) -> None:
    with pytest.raises(AbsentError):
        compare(hub, copy("hf", tmp_path), "org/absent")
