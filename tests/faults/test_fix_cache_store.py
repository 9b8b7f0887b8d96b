"""The shared blob store: what is broken in it is mended as the hub's client reads it, or said to be left."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from huggingface_hub import scan_cache_dir

from fetchverify.commands.fix_cache import run
from fetchverify.commands.fixing import FixOptions
from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.commands.verify import run as verify
from fetchverify.commands.verifyoptions import VerifyOptions
from fetchverify.core.findings import Kind, Rank
from fetchverify.core.fixed import FixReport
from fetchverify.core.purge import PurgeOptions
from fetchverify.events import ignore
from mock_server import MockHub
from tests.damage import FILES, REPO, WEIGHTS, Cached, a_world

pytestmark = [pytest.mark.anyio, pytest.mark.leaves_damage]

TWIN = "org/twin"
XET = "ab" * 32
USERS = {f"models--org--{name}/blobs/{WEIGHTS.sha256()}" for name in ("model", "twin")}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def hub() -> Iterator[MockHub]:
    world = a_world()
    world.add(TWIN, FILES)
    with MockHub(world) as running:
        yield running


@pytest.fixture
def cache(hub: MockHub, tmp_path: Path) -> Path:
    """Two repos that share one payload, by hand: an older hub's line can meet such a cache, too."""
    place = tmp_path / "cache"
    for name in (REPO, TWIN):
        anyio.run(get, GetOptions(repo=name, endpoint=hub.endpoint, cache_dir=place, token="", retries=3), ignore)
    store = place / "blobs" / XET[:2]
    store.mkdir(parents=True)
    (place / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    for user in sorted(USERS):
        if not (store / XET).exists():
            (place / user).rename(store / XET)
        (place / user).unlink(missing_ok=True)
        (place / user).symlink_to(f"../../blobs/{XET[:2]}/{XET}")
    (store / XET).chmod(0o444)
    (store / f"{XET}.refs").write_text("".join(f"{user}\n" for user in sorted(USERS)))
    return place


def payload(cache: Path) -> Path:
    return cache / "blobs" / XET[:2] / XET


def refs(cache: Path) -> Path:
    return payload(cache).with_name(f"{XET}.refs")


async def fix(hub: MockHub, cache: Path, **more: object) -> FixReport:
    given = {"endpoint": hub.endpoint, "cache_dir": cache, "token": "", "retries": 2}
    return await run(FixOptions(**{**given, **more}), ignore)  # type: ignore[arg-type]


async def kinds_left(cache: Path) -> set[Kind]:
    given = VerifyOptions(all=True, offline=True, cache_dir=cache, token="")
    report = await verify(given, ignore)
    return {finding.kind for place in report.places for finding in place.verdict.findings}


def _torn(cache: Path) -> None:
    """A power cut in the middle of the second line."""
    refs(cache).write_text("\n".join(sorted(USERS))[:-10])


def _folder(cache: Path, *below: str) -> None:
    refs(cache).unlink()
    refs(cache).joinpath(*below).mkdir(parents=True)


def _link(cache: Path) -> None:
    refs(cache).unlink()
    (cache / "elsewhere").write_text("mine\n")
    refs(cache).symlink_to("../../elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: refs(cache).unlink(),
        lambda cache: refs(cache).write_bytes(b""),
        lambda cache: refs(cache).write_bytes(b"\xff\xfe" + b"\0" * 100),
        lambda cache: refs(cache).write_bytes(b"\xff\xfe\n" + refs(cache).read_bytes()),
        lambda cache: refs(cache).write_text("../../../etc/passwd\nmodels--org--gone/blobs/" + "0" * 64),
        _torn,
        _link,
    ],
    ids=["absent", "empty", "binary", "no-text", "strangers", "cut", "a-link"],
)
async def test_a_broken_list_of_users_is_written_anew(
    hub: MockHub, cache: Path, damage: Callable[[Path], object]
) -> None:
    """The hub deletes a payload without users, and never one whose list it cannot read: both would be wrong."""
    damage(cache)
    assert {Kind.LOST_REFERENCE} <= await kinds_left(cache)
    report = await fix(hub, cache)
    assert 0 == report.exit_code, report.as_json()
    assert set(refs(cache).read_text().splitlines()) >= USERS
    assert not refs(cache).is_symlink()
    assert 0o666 == stat.S_IMODE(refs(cache).stat().st_mode), "other users of the cache append to it"
    assert set() == await kinds_left(cache)
    if (cache / "elsewhere").exists():
        assert "mine\n" == (cache / "elsewhere").read_text()
    hubs = pytest.importorskip("huggingface_hub.utils._shared_blobs", reason="this line has no shared store")
    assert {cache / user for user in USERS} == hubs._read_valid_manifest_references(payload(cache), cache)
    assert 0 == hubs.sweep_shared_blob(payload(cache), cache_dir=cache)
    assert payload(cache).exists()


async def test_what_cannot_be_mended_is_left_and_said(hub: MockHub, cache: Path) -> None:
    """It was reported as mended, with exit code 0."""
    _folder(cache, "mine")
    report = await fix(hub, cache)
    assert 1 == report.exit_code
    assert [Kind.LOST_REFERENCE] * 2 == [finding.kind for finding, _ in report.places[-1].left]
    assert () == report.places[-1].steps
    command = ["fix-cache", "--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(cache)]
    done = subprocess.run([sys.executable, "-m", "fetchverify", *command], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    said = f"shared blobs: `blobs/ab/{XET}` is a shared blob that does not know its user: not mended, cannot "
    assert [said] * 2 == [line[: len(said)] for line in done.stdout.splitlines() if "not mended" in line]
    assert "2 problems left" in done.stdout


async def test_an_empty_folder_in_the_lists_place_goes(hub: MockHub, cache: Path) -> None:
    _folder(cache)
    assert 0 == (await fix(hub, cache)).exit_code
    assert set(refs(cache).read_text().splitlines()) == USERS


async def test_a_payload_without_permissions_is_given_what_the_hub_gives(hub: MockHub, cache: Path) -> None:
    """0400 shut out everybody else who shares the cache."""
    for mode in (0o755, 0o750, 0o700):
        cache.chmod(mode)
        payload(cache).chmod(0)
        report = await fix(hub, cache)
        assert 0 == report.exit_code, report.as_json()
        expected = {0o755: 0o444, 0o750: 0o440, 0o700: 0o400}[mode]
        assert expected == stat.S_IMODE(payload(cache).stat().st_mode)
        try:
            from huggingface_hub.utils import _shared_blobs as hubs
        except ImportError:
            continue
        assert expected == hubs._shared_blob_mode(cache)


async def test_a_blob_without_permissions_is_given_those_of_a_new_file(hub: MockHub, cache: Path) -> None:
    blob = Cached(cache).blob("other.bin")
    blob.chmod(0)
    (cache / "new").write_bytes(b"")
    assert 0 == (await fix(hub, cache)).exit_code
    assert stat.S_IMODE((cache / "new").stat().st_mode) == stat.S_IMODE(blob.stat().st_mode)


@pytest.mark.parametrize("marker", [None, b"", b"rubbish"], ids=["absent", "empty", "rubbish"])
async def test_the_marker_is_what_the_hub_looks_for(hub: MockHub, cache: Path, marker: bytes | None) -> None:
    place = cache / "blobs" / ".huggingface-shared-blobs"
    if marker is None:
        place.unlink()
    else:
        place.write_bytes(marker)
    assert {Kind.UNMARKED_STORE} == await kinds_left(cache)
    assert 0 == (await fix(hub, cache)).exit_code
    assert b"1\n" == place.read_bytes()
    assert set() == await kinds_left(cache)


async def test_the_marker_of_a_layout_to_come_is_left_alone(hub: MockHub, cache: Path) -> None:
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("2\n")
    assert set() == await kinds_left(cache)
    assert 0 == (await fix(hub, cache)).exit_code
    assert "2\n" == (cache / "blobs" / ".huggingface-shared-blobs").read_text()


async def test_a_vanished_payload_is_fetched_for_each_repo(hub: MockHub, cache: Path) -> None:
    payload(cache).unlink()
    assert Kind.DANGLING in await kinds_left(cache)
    report = await fix(hub, cache)
    assert 0 == report.exit_code, report.as_json()
    for user in USERS:
        assert WEIGHTS.read(0, WEIGHTS.size) == (cache / user).read_bytes()
    assert not {kind for kind in await kinds_left(cache) if kind.rank is Rank.DAMAGE}
    assert not scan_cache_dir(cache).warnings


async def test_a_payload_without_users_stays_until_unreferenced_is_asked_for(hub: MockHub, cache: Path) -> None:
    pytest.importorskip("huggingface_hub.utils._shared_blobs", reason="this line has no shared store")
    orphan = cache / "blobs" / "cd" / ("cd" * 32)
    orphan.parent.mkdir()
    orphan.write_bytes(b"whole")
    orphan.chmod(0o444)
    orphan.with_name(f"{orphan.name}.refs").write_text(f"models--org--gone/blobs/{'0' * 64}\n")
    assert {Kind.ORPHAN_PAYLOAD} == await kinds_left(cache)
    assert 0 == (await fix(hub, cache)).exit_code
    assert 0 == (await fix(hub, cache, repos=(REPO,), purge=PurgeOptions(unreferenced=True))).exit_code
    assert orphan.exists()
    dry = await fix(hub, cache, purge=PurgeOptions(unreferenced=True), dry_run=True)
    report = await fix(hub, cache, purge=PurgeOptions(unreferenced=True))
    for one in (dry, report):
        (purge,) = [each for place in one.places for each in place.purged]
        assert (("cd" * 32,), 5, "no repo uses it") == (purge.blobs, purge.frees, purge.why)
    assert (5, False, True) == (report.bytes_freed, orphan.exists(), payload(cache).exists())


async def test_one_repo_of_a_shared_payload_frees_nothing_of_it(hub: MockHub, cache: Path) -> None:
    """Named alone, the other's use was not seen."""
    for place in [*cache.rglob("snapshots/**/*"), payload(cache), *cache.rglob("models*/blobs/*")]:
        os.utime(place, (1, 1), follow_symlinks=False)
    report = await fix(hub, cache, repos=(REPO,), purge=PurgeOptions(older_than_s=86400.0), dry_run=True)
    (purge,) = report.places[0].purged
    assert purge.frees < WEIGHTS.size
