"""On a fast line bytes are written past the page cache, where the disk can and keeps up; otherwise as ever."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchverify.engine.pace import Pace
from mock_server import Cut, MiB, MockHub, Seeded, World
from tests import swift
from tests.faults.test_lines import get, on_disk
from tests.mounts import mounted

pytestmark = pytest.mark.anyio

BIG = Seeded(24 * MiB + 4097, seed="past the cache")
DIGEST = hashlib.sha256(BIG.read(0, BIG.size)).hexdigest()


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", {"w.bin": BIG})
    with MockHub(world) as running:
        yield running


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "swift", swift.on(), raising=False)


def cached(path: Path) -> int:
    """Return how many bytes of a file lie in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "exfat", "tmpfs"])
async def test_the_bytes_are_right_on_every_file_system(hub: MockHub, tmp_path: Path, kind: str) -> None:
    """Some write past the cache, some take the bytes and cache them all the same, some refuse to open the file so."""
    with mounted(tmp_path, kind, "400M" if kind == "xfs" else "160M") as disk:
        report = await get(hub, disk / "cache")
        if kind in {"ext4", "xfs"}:
            there = cached((Path(report.target) / "w.bin").resolve())
            assert there < BIG.size // 2, "the odd end, and what a busy machine took in odd pieces"
        assert (0, DIGEST, BIG.size) == (report.exit_code, on_disk(report), report.bytes_fetched)


async def test_a_line_that_breaks_off_anywhere(hub: MockHub, tmp_path: Path) -> None:
    """Where the rest of a block begins amid a page it is written the usual way, beside what was not."""
    for nth in range(2, 9):
        hub.fault(Cut(after=3 * MiB + 100 * nth, reset=bool(nth % 2)), path="w.bin", nth=nth)
    report = await get(hub, tmp_path)
    assert (0, DIGEST, BIG.size) == (report.exit_code, on_disk(report), report.bytes_fetched)
