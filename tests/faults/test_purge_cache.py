"""A purge frees what was asked for: bytes are counted once, and by what the disk gives back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from fetchverify.commands.fix_cache import run
from fetchverify.commands.fixing import FixOptions
from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.core.fixed import FixReport
from fetchverify.core.purge import PurgeOptions
from fetchverify.events import ignore
from mock_server import MockHub
from tests.damage import FILES, REPO, WEIGHTS, Cached, a_world

pytestmark = pytest.mark.anyio

TWIN = "org/twin"
MONTH_S = 30 * 86400.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def cache(tmp_path: Path) -> Path:
    """A cache of two repos with the same files."""
    world = a_world()
    world.add(TWIN, FILES)
    with MockHub(world) as hub:
        for name in (REPO, TWIN):
            given = GetOptions(repo=name, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token="", retries=3)
            await get(given, ignore)
    return tmp_path / "cache"


def folders(cache: Path) -> list[Path]:
    return [cache / f"models--{name.replace('/', '--')}" for name in (REPO, TWIN)]


def linked_hard(cache: Path) -> None:
    """Make each blob of the one repo a hard link to the other's, as mirrors and deduplicators do."""
    one, other = folders(cache)
    for blob in (one / "blobs").iterdir():
        twin = other / "blobs" / blob.name
        twin.unlink()
        twin.hardlink_to(blob)


def used(folder: Path, days_ago: float) -> None:
    """Set all times back that tell when a repo was used."""
    moment = time.time() - days_ago * 86400
    for place in [*folder.rglob("snapshots/*"), *folder.rglob("snapshots/**/*"), *folder.rglob("blobs/*")]:
        os.utime(place, (moment, moment), follow_symlinks=False)


def on_disk(cache: Path) -> int:
    """Return the bytes that blobs and copies take, as `du` counts them."""
    seen = {}
    for where, _, names in os.walk(cache):
        for name in names:
            state = os.lstat(Path(where, name))
            if {"blobs", "snapshots"} & set(Path(where).parts) and not Path(where, name).is_symlink():
                seen[state.st_ino] = state.st_size
    return sum(seen.values())


def repos(cache: Path) -> set[str]:
    return {each.repo_id for each in scan_cache_dir(cache).repos if each.revisions}


async def purged(cache: Path, *names: str, dry_run: bool = False, **more: object) -> FixReport:
    purge = PurgeOptions(**more)  # type: ignore[arg-type]
    given = FixOptions(repos=names, cache_dir=cache, token="", offline=True, purge=purge, dry_run=dry_run)
    return await run(given, ignore)


def frees(report: FixReport) -> int:
    return sum(one.frees for place in report.places for one in place.purged)


async def test_hard_linked_repos_take_their_bytes_once(cache: Path) -> None:
    """They were counted as nothing, so that `--max-size` never removed them, whatever they took."""
    linked_hard(cache)
    used(folders(cache)[0], 9)
    size = on_disk(cache)
    assert [] == [one for place in (await purged(cache, max_size=size)).places for one in place.purged]
    report = await purged(cache, max_size=size - 1, dry_run=True)
    assert (2, size) == (sum(len(place.purged) for place in report.places), frees(report))
    report = await purged(cache, max_size=size - 1)
    assert (set(), size, 0) == (repos(cache), report.bytes_freed, on_disk(cache))


async def test_one_of_two_hard_linked_repos_frees_nothing(cache: Path) -> None:
    linked_hard(cache)
    used(folders(cache)[0], 45)
    for blob in (folders(cache)[1] / "blobs").iterdir():
        os.utime(blob, (time.time() - 45 * 86400,) * 2)
    size = on_disk(cache)
    report = await purged(cache, older_than_s=MONTH_S)
    assert ({TWIN}, 0, 0, size) == (repos(cache), frees(report), report.bytes_freed, on_disk(cache))


async def test_copies_in_snapshots_are_counted_and_freed(cache: Path) -> None:
    """Where links are not to be had, every revision holds copies, or hard links to blobs."""
    repo = Cached(cache)
    repo.copied("w.safetensors")
    name, blob = repo.name("other.bin"), repo.blob("other.bin")
    name.unlink()
    name.hardlink_to(blob)
    used(folders(cache)[0], 45)
    before = on_disk(cache)
    report = await purged(cache, older_than_s=MONTH_S)
    assert {TWIN} == repos(cache)
    assert before - on_disk(cache) == report.bytes_freed == frees(report)
    assert report.bytes_freed > WEIGHTS.size


async def test_what_fix_cache_reads_itself_is_no_use(cache: Path) -> None:
    """It hashes everything first: were that noted as an access, nothing would ever be old."""
    used(folders(cache)[0], 45)
    (folders(cache)[0] / ".fetchverify" / "proofs").unlink()
    report = await run(
        FixOptions(cache_dir=cache, token="", offline=True, deep=True, purge=PurgeOptions(older_than_s=MONTH_S)), ignore
    )
    assert {TWIN} == repos(cache)
    (one,) = report.places[0].purged
    assert one.why.startswith("last used 45 days ago by its ")


async def test_a_snapshot_that_somebody_begins_to_fill_is_not_old(cache: Path) -> None:
    """The hub's client makes the folder first: a purge must not take it away under the download."""
    used(folders(cache)[0], 45)
    begun = folders(cache)[0] / "snapshots" / ("ab" * 20)
    begun.mkdir()
    report = await purged(cache, older_than_s=MONTH_S, dry_run=True)
    assert [Cached(cache).commit] == [one.commit for one in report.places[0].purged]


@pytest.mark.parametrize("by", ["access", "link"])
async def test_which_time_told_is_said(cache: Path, by: str) -> None:
    used(folders(cache)[0], 99)
    moment = time.time() - 45 * 86400
    repo = Cached(cache)
    if by == "access":
        os.utime(repo.blob("w.safetensors"), (moment, moment))
    else:
        os.utime(repo.name("w.safetensors"), (moment, moment), follow_symlinks=False)
    command = ["fix-cache", REPO, "--older-than", "30d", "--offline", "--cache-dir", str(cache), "--dry-run"]
    done = subprocess.run([sys.executable, "-m", "fetchverify", *command], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    expected = f"revision `{repo.commit[:8]}`: to be removed, last used 45 days ago by its {by} time (21 MB)"
    assert expected in done.stdout.splitlines(), done.stdout
    told = subprocess.run(
        [sys.executable, "-m", "fetchverify", *command, "--json"], capture_output=True, text=True, check=False
    )
    (one,) = json.loads(told.stdout.splitlines()[-1])["places"][0]["purged"]
    assert (repo.commit, f"last used 45 days ago by its {by} time") == (one["commit"], one["why"])
