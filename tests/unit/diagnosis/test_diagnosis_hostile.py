"""The rules hold for whatever stands in a folder's JSON, names and headers: they find or pass, and never fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchverify.core.diagnosis.facts import Entry, FileSeen
from fetchverify.core.diagnosis.findings import Origin
from fetchverify.core.diagnosis.trainconfig import Machine, judge_training
from fetchverify.core.diagnosis.uses import USES, judge_use
from fetchverify.core.diagnosis.wholes import judge_tree
from fetchverify.engine.examine import examine_source
from fetchverify.formats.source import Bytes
from tests.models.folders import HEALTHY, HERE

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def examined(name: str, path: str, data: bytes) -> FileSeen:
    return examine_source(Bytes(data), Entry(path=path, size=len(data)))


def contents(name: str) -> dict[str, bytes]:
    folder = HERE / name
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


FOLDERS = {name: contents(name) for name in HEALTHY}


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        found += [deeper for key, inner in value.items() for deeper in places_in(inner, (*path, key))]
    elif isinstance(value, list):
        found += [deeper for key, inner in enumerate(value) for deeper in places_in(inner, (*path, key))]
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


JSONS = [
    (name, path)
    for name, files in FOLDERS.items()
    for path in files
    if path.endswith(".json") and Path(path).name not in {"tokenizer.json", "generation_config.json"}
]


@pytest.mark.parametrize(("name", "path"), JSONS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_value_anywhere_in_json_is_survived(name: str, path: str, data: st.DataObject) -> None:
    value = json.loads(FOLDERS[name][path])
    place = data.draw(st.sampled_from(places_in(value)))
    changed = json.dumps(replaced(value, place, data.draw(VALUES))).encode()
    files = {**FOLDERS[name], path: changed}
    seen = [examined(name, one, content) for one, content in files.items()]
    places, findings = judge_tree(seen, Origin())
    config = next((one.value for one in seen if one.entry.path == "config.json"), None)
    for use in USES:
        judge_use(use, places, config if isinstance(config, dict) else None, findings)
    json.dumps([one.as_json() for one in findings])


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "num_nextn_predict_layers"])
def test_an_absurd_number_takes_no_time(key: str) -> None:
    files = dict(FOLDERS["hf"])
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), key: 1 << 60}).encode()
    judge_tree([examined("hf", one, content) for one, content in files.items()], Origin())


@given(
    st.dictionaries(st.sampled_from(["distributed_type", "deepspeed_config", "num_processes", "num_machines"]), VALUES)
)
def test_any_training_config_is_survived(config: dict[str, Any]) -> None:
    list(judge_training("c", config, Machine(gpus=1, versions={"transformers": "x"})))


@given(
    names=st.lists(
        st.from_regex(
            r"(model|pytorch_model|consolidated|adapter_model|x)(-0000[0-9]-of-0000[0-9])?(\.fp16|\.0[0-9])?"
            r"\.(safetensors|bin|pth|gguf|json|distcp)(\.index\.json)?|global_step[0-9]/[a-z]{0,3}|latest|\.metadata"
            r"|config\.json|model_world_size_[0-9]_rank_[0-9]\.pt|a/(config|model_index)\.json",
            fullmatch=True,
        ),
        max_size=8,
        unique=True,
    ),
    content=st.sampled_from([b"", b"{}", b"[]", FOLDERS["hf"]["model.safetensors"], FOLDERS["gguf"]["tiny-q8_0.gguf"]]),
)
def test_any_names_are_survived(names: list[str], content: bytes) -> None:
    judge_tree([examined("", name, content) for name in names], Origin())
