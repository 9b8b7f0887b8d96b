"""A recorded command, cut off after every operation: readers see nothing or the whole file, and a re-run ends well."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from mock_server import MockHub
from tests.crash import laws, recorder, replay
from tests.crash.commands import BIG, CACHE_ROOT, CASES, REPO, Case, Setting, clean_environment, fetched, must, new_world, run_here
from tests.crash.model import KEPT, File
from tests.crash.recorder import RecordingDisk


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    for name, value in clean_environment().items():
        monkeypatch.setenv(name, value)
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30  # real syncs cost more than all the rest
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as place, MockHub(new_world()) as hub:
        yield Setting(hub=hub, place=Path(place))


def record(setting: Setting, case: Case, kind: type[RecordingDisk] = RecordingDisk) -> tuple[RecordingDisk, laws.Promise]:
    place = setting.place / "recorded"
    place.mkdir()
    here = setting.elsewhere(place)
    before = case.prepare(here)
    disk = kind(place)
    with pytest.MonkeyPatch.context() as patch:
        recorder.use(patch, disk)
        must(case.words(here))
    return disk, case.promise(here, before)


@pytest.mark.parametrize("name", CASES)
def test_the_recorder_sees_every_write(setting: Setting, name: str) -> None:
    """What goes past it is never lost in a replay: the recorded operations must make the tree that lies there."""
    disk, _ = record(setting, CASES[name])
    assert shown(recorder.scan(setting.place / "recorded")) == shown(replay.final(disk.operations, KEPT).tree)


def shown(tree: laws.Tree) -> dict[str, object]:
    return {
        path: node.data if isinstance(node, File) else node
        for path, node in tree.items()
        if not path.endswith(".lock") and not path.startswith("cache/.locks")  # the hub's own lock files
    }
