"""One flipped byte in a file of 2 GiB costs one block of 8 MiB, not the file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fetchverify.commands.fix_cache import run
from fetchverify.commands.fixing import FixOptions
from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.core.findings import Kind
from fetchverify.events import ignore
from mock_server import MiB, MockHub, Seeded, World
from tests.damage import REPO, Cached
from tests.hubcli import verified

pytestmark = pytest.mark.anyio

SIZE = 2048 * MiB
BLOCK = 8 * MiB
FLIPPED = 1234 * MiB + 567


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_flipped_byte_of_two_gib_costs_one_block(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 4 * SIZE and not os.environ.get("FETCHVERIFY_NO_SKIPS"):
        pytest.skip("takes 8 GiB of disk space")
    weights = Seeded(SIZE, seed="large")
    world = World()
    world.add(REPO, {"w.safetensors": weights})
    with MockHub(world) as hub:
        common = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": "", "retries": 3}
        await get(GetOptions(repo=REPO, **common), ignore)  # type: ignore[arg-type]
        blob = Cached(tmp_path / "cache").blob("w.safetensors")
        with blob.open("r+b") as file:
            file.seek(FLIPPED)
            byte = file.read(1)[0]
            file.seek(FLIPPED)
            file.write(bytes([byte ^ 16]))
        hub.ledger.clear()
        report = await run(FixOptions(**common), ignore)  # type: ignore[arg-type]
        asked = [record for record in hub.ledger.requests(method="GET") if record.file and record.bytes_sent >= BLOCK]
        (step,) = report.places[0].steps
        assert (0, BLOCK, Kind.CORRUPT, (FLIPPED // BLOCK,)) == (
            report.exit_code,
            report.bytes_fetched,
            step.kind,
            step.blocks,
        )
        begin = FLIPPED // BLOCK * BLOCK
        assert [((begin, begin + BLOCK), BLOCK)] == [(record.range, record.bytes_sent) for record in asked]
        assert 0 == verified(tmp_path / "cache", REPO, hub.endpoint)[0]
    shutil.rmtree(tmp_path / "cache")  # pytest keeps three
