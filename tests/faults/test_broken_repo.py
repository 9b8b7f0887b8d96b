"""What is broken in the repo itself arrives as promised: it is proved, and said to be of no use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MockHub, World
from tests.unit.formats.damage import POINTER, good


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add(
        "org/broken",
        {
            "README.md": b"# x",
            "model-00001-of-00002.safetensors": POINTER,
            "model-00002-of-00002.safetensors": good()[:-4],
            "other.safetensors": good(),
        },
    )
    with MockHub(world) as hub:
        yield hub


def get(hub: MockHub, tmp_path: Path, *words: str, command: str = "get") -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "fetchverify", command, "org/broken", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**env, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint},
        check=False,
    )


def test_a_repo_whose_own_content_is_broken_is_said_to_be_so_once(hub: MockHub, tmp_path: Path) -> None:
    done = get(hub, tmp_path)
    assert 0 == done.returncode  # every byte is what the repo promises
    said = [line for line in done.stderr.splitlines() if "broken in the repo itself" in line]
    assert ["FV101", "FV108"] == [line.partition("itself: ")[2][:5] for line in said]
    assert said[0].startswith("`model-00001-of-00002.safetensors` is proved")
    assert "broken" not in get(hub, tmp_path).stderr.replace("org/broken", "")


def test_the_report_names_it_and_no_doctor_is_silent(hub: MockHub, tmp_path: Path) -> None:
    report = json.loads(get(hub, tmp_path, "--json").stdout.splitlines()[-1])
    assert ["FV101", "FV108"] == [one["code"] for one in report["findings"]]
    done = get(hub, tmp_path / "another", "--no-doctor", "--json")
    assert [] == json.loads(done.stdout.splitlines()[-1])["findings"]
    assert "broken" not in done.stderr.replace("org/broken", "")


@pytest.mark.parametrize("words", [(), ("--offline",)])
def test_verify_says_so_too(hub: MockHub, tmp_path: Path, words: tuple[str, ...]) -> None:
    get(hub, tmp_path, "-q")
    done = get(hub, tmp_path, *words, command="verify")
    assert 0 == done.returncode
    assert 2 == done.stderr.count("broken in the repo itself")
    done = get(hub, tmp_path, *words, "--no-doctor", command="verify")
    assert "broken in the repo itself" not in done.stderr
    report = json.loads(get(hub, tmp_path, *words, "--json", command="verify").stdout.splitlines()[-1])
    assert ["FV101", "FV108"] == [one["code"] for one in report["broken"]]
