import hashlib
import json
from pathlib import Path

import pytest

from mock_server.tiny_llama import HIDDEN, VOCAB, tiny_llama

INDEX = "model.safetensors.index.json"


def test_the_model_is_small_and_the_same_everywhere() -> None:
    files = tiny_llama()
    assert 2e6 < sum(len(data) for data in files.values()) < 6e6
    digest = hashlib.sha256(b"".join(files[path] for path in sorted(files))).hexdigest()
    assert digest == "ea419f34aaf649525647873d3382f6990c2e53d16de41e238864c2eab9e1947e"


def test_the_tokenizer_has_one_token_a_number() -> None:
    tokenizer = json.loads(tiny_llama()["tokenizer.json"])
    assert list(range(VOCAB)) == sorted(tokenizer["model"]["vocab"].values())


def test_the_shards_open_with_safetensors_and_hold_what_the_index_says(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("numpy")
    index = json.loads(tiny_llama()[INDEX])
    total = 0
    found: dict[str, str] = {}
    for name in sorted(set(index["weight_map"].values())):
        (tmp_path / name).write_bytes(tiny_llama()[name])
        with safetensors.safe_open(tmp_path / name, framework="np") as shard:
            for key in shard.keys():  # noqa: SIM118 - not a mapping
                tensor = shard.get_tensor(key)
                found[key] = name
                total += tensor.nbytes
                assert float(abs(tensor).max()) <= 1.0
                if key == "lm_head.weight":
                    assert tensor.shape == (VOCAB, HIDDEN)
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == total
