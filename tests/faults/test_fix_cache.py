"""`fix-cache` mends every damage of the catalogue at its cost, and the hub's own tools are content afterwards."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from fetchverify.commands.fix_cache import run
from fetchverify.commands.fixing import FixOptions
from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.commands.verify import run as verify
from fetchverify.commands.verifyoptions import VerifyOptions
from fetchverify.core.findings import Kind, Rank
from fetchverify.core.fixed import FixReport
from fetchverify.core.purge import PurgeOptions
from fetchverify.errors import AbsentError
from fetchverify.events import ignore
from mock_server import MiB, MockHub
from tests.damage import (
    A_DAY_AND_MORE,
    CATALOGUE,
    DROPPED,
    FILES,
    ODD,
    REPO,
    WEIGHTS,
    Cached,
    Damage,
    a_world,
    names_of,
)
from tests.hubcli import listed, verified

pytestmark = pytest.mark.anyio

# Left as they are: somebody may want them, and they harm nobody.
LEFT = {Kind.UNLINKED, Kind.QUARANTINED, Kind.STRANGE, Kind.EXTRA, Kind.DEAD_PARTIAL}
BLOCK = 8 * MiB


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def hub() -> Iterator[MockHub]:
    with MockHub(a_world()) as running:
        yield running


@pytest.fixture(scope="module")
def pristine(hub: MockHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Caches by who wrote them."""
    made = {writer: tmp_path_factory.mktemp(writer) for writer in ("hub", "ours")}
    snapshot_download(REPO, cache_dir=made["hub"], endpoint=hub.endpoint, token=False)
    anyio.run(get, GetOptions(repo=REPO, endpoint=hub.endpoint, cache_dir=made["ours"], token="", retries=3), ignore)
    return made


@pytest.fixture(params=["hub", "ours"])
def writer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def repo(writer: str, pristine: dict[str, Path], tmp_path: Path) -> Cached:
    shutil.copytree(pristine[writer], tmp_path / "cache", symlinks=True)
    return Cached(tmp_path / "cache")


def options(hub: MockHub, repo: Cached, **more: object) -> FixOptions:
    given = {"endpoint": hub.endpoint, "cache_dir": repo.cache, "token": "", "retries": 2}
    return FixOptions(**{**given, **more})  # type: ignore[arg-type]


async def fix(hub: MockHub, repo: Cached, **more: object) -> FixReport:
    return await run(options(hub, repo, **more), ignore)


async def damage_left(hub: MockHub, repo: Cached) -> set[Kind]:
    report = await verify(
        VerifyOptions(all=True, endpoint=hub.endpoint, cache_dir=repo.cache, token="", deep=True), ignore
    )
    return {finding.kind for place in report.places for finding in place.verdict.of_rank(Rank.DAMAGE)}


def bytes_asked_for(hub: MockHub) -> dict[str, int]:
    told: dict[str, int] = {}
    for record in hub.ledger.requests(method="GET"):
        if record.kind in ("resolve", "cdn") and record.bytes_sent:
            told[str(record.file)] = told.get(str(record.file), 0) + record.bytes_sent
    return told


def inodes(repo: Cached) -> dict[str, int]:
    blobs = repo.root / "blobs"
    return (
        {entry.name: entry.stat(follow_symlinks=False).st_ino for entry in os.scandir(blobs)} if blobs.exists() else {}
    )


def content_for_the_hub(hub: MockHub, repo: Cached, files: set[str]) -> None:
    """The hub's own scan lists the repo without a warning, its checksums agree, and its reader finds every file."""
    told = scan_cache_dir(repo.cache)
    assert not told.warnings, told.warnings
    assert [f"model/{REPO}"] == listed(repo.cache)
    assert 0 == verified(repo.cache, REPO, hub.endpoint)[0]
    found = Path(snapshot_download(REPO, cache_dir=repo.cache, local_files_only=True))
    for path in files:
        value = FILES[path]
        expected = value if isinstance(value, bytes) else value.read(0, value.size)  # type: ignore[union-attr]
        assert expected == (found / path).read_bytes(), path


@pytest.mark.parametrize("damage", CATALOGUE, ids=names_of())
async def test_every_damage_is_mended_at_its_cost(hub: MockHub, repo: Cached, writer: str, damage: Damage) -> None:
    if damage.ours and writer != "ours":
        return
    whole = inodes(repo)
    bad = {repo.blob(path).name for path in damage.fetch} if damage.fetch else set()
    damage.do(repo)
    assert (damage.name in DROPPED) is (listed(repo.cache) == [])
    hub.ledger.clear()
    report = await fix(hub, repo)
    assert 0 == report.exit_code, report.as_json()
    asked = bytes_asked_for(hub)
    allowed = set(damage.fetch) | ({"sub/twin.json", "config.json"} if "config.json" in damage.fetch else set())
    assert set(asked) <= allowed, "nothing whole is fetched"
    now = inodes(repo)
    assert all(now.get(name) == inode for name, inode in whole.items() if name not in bad), "nothing whole is touched"
    assert not await damage_left(hub, repo)
    content_for_the_hub(hub, repo, set(FILES))


def everything(repo: Cached) -> dict[str, tuple[int, int, bytes | str]]:
    """Return inode, mode and content of all that lies in a repo, but for our own folder and listings."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for place in sorted(Path(os.path.realpath(repo.root)).rglob("*")):
        if not {".fetchverify", "trees"} & set(place.parts) and not place.is_dir():
            seen = place.lstat()
            content = os.readlink(place) if place.is_symlink() else place.read_bytes()
            found[str(place)] = (seen.st_ino, seen.st_mode, content)
    return found


@pytest.mark.parametrize("odd", ODD)
async def test_what_is_odd_and_whole_is_left_as_it_is(hub: MockHub, repo: Cached, odd: str) -> None:
    ODD[odd](repo)
    before = everything(repo)
    hub.ledger.clear()
    for deep in (False, True):
        report = await fix(hub, repo, deep=deep)
        assert (0, {}, 0) == (report.exit_code, bytes_asked_for(hub), report.bytes_fetched), report.as_json()
        assert before == everything(repo)
    assert not await damage_left(hub, repo)
    assert [f"model/{REPO}"] == listed(repo.cache)
    if "refs" in {place.name for place in repo.root.iterdir()}:
        assert 0 == verified(repo.cache, REPO, hub.endpoint)[0]


@pytest.mark.leaves_damage
async def test_a_dry_run_says_what_it_would_cost_and_does_nothing(hub: MockHub, repo: Cached) -> None:
    repo.flip("w.safetensors", 9 * MiB)
    repo.blob("tokenizer.json").unlink()
    before = inodes(repo)
    report = await fix(hub, repo, dry_run=True)
    assert 1 == report.exit_code
    assert {"w.safetensors", "tokenizer.json"} == {step.path for step in report.places[0].steps}
    assert sum(place.fetch for place in report.places) > 0
    assert before == inodes(repo)
    assert {Kind.CORRUPT, Kind.DANGLING} == await damage_left(hub, repo)


async def test_of_our_own_files_only_the_damaged_block_is_fetched(hub: MockHub, tmp_path: Path) -> None:
    """One flipped byte costs one block of 8 MiB, whatever the file's size; readers of the old file are not broken."""
    repo = Cached(tmp_path / "cache")
    given = GetOptions(repo=REPO, endpoint=hub.endpoint, cache_dir=repo.cache, token="", retries=3)
    await get(given, ignore)
    with repo.name("w.safetensors").open("rb") as reader:
        old = reader.read()
        repo.flip("w.safetensors", 9 * MiB)
        dry = await fix(hub, repo, dry_run=True)
        assert BLOCK == sum(place.fetch for place in dry.places)
        hub.ledger.clear()
        report = await fix(hub, repo)
        assert (0, BLOCK) == (report.exit_code, report.bytes_fetched)
        assert {"w.safetensors": BLOCK} == bytes_asked_for(hub)
        reader.seek(0)
        assert old[: 9 * MiB] == reader.read(9 * MiB)
    assert WEIGHTS.read(0, WEIGHTS.size) == repo.name("w.safetensors").read_bytes()
    assert [] == list((repo.area / "partial").iterdir())
    assert 1 == len([place for place in (repo.area / "quarantine").iterdir() if not place.name.endswith(".json")])


async def test_offline_mends_what_needs_no_network(hub: MockHub, repo: Cached) -> None:
    repo.relink("w.safetensors", "../../blobs/" + "ab" * 32)
    repo.blob("tokenizer.json").unlink()
    (repo.root / "refs" / "dev").write_text("")
    hub.ledger.clear()
    report = await fix(hub, repo, offline=True)
    assert 1 == report.exit_code
    (left,) = report.places[0].left
    assert ("tokenizer.json", "it has to be fetched, and the network may not be asked") == (left[0].path, left[1])
    assert WEIGHTS.read(0, WEIGHTS.size) == repo.name("w.safetensors").read_bytes()
    assert 0 == len(hub.ledger.requests())
    assert 0 == (await fix(hub, repo)).exit_code


async def test_every_name_of_a_bad_blob_gets_good_bytes(hub: MockHub, tmp_path: Path) -> None:
    """Two revisions lead to one blob: both are read again."""
    with MockHub(a_world()) as other:
        repo = Cached(tmp_path / "cache")
        given = GetOptions(repo=REPO, endpoint=other.endpoint, cache_dir=repo.cache, token="", retries=3)
        await get(given, ignore)
        first = repo.snapshot
        other.world.repo(REPO).commit({"README.md": b"# new\n"})
        await get(given, ignore)
        assert first != repo.snapshot
        repo.flip("w.safetensors", 0)
        assert 0 == (await fix(other, repo)).exit_code
        for snapshot in (first, repo.snapshot):
            assert WEIGHTS.read(0, WEIGHTS.size) == (snapshot / "w.safetensors").read_bytes()


async def test_a_file_that_somebody_downloads_is_left_alone(hub: MockHub, repo: Cached) -> None:
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    etag = "cd" * 32
    orphan = repo.root / "blobs" / f"{etag}.7f2a.incomplete"
    orphan.write_bytes(b"x" * 1000)
    os.utime(orphan, (1, 1))
    lock = repo.cache / ".locks" / repo.root.name / f"{etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        await fix(hub, repo)
        assert orphan.exists()
    await fix(hub, repo)
    assert not orphan.exists()


@pytest.mark.leaves_damage
async def test_a_commit_that_the_hub_has_no_more_is_not_lost(hub: MockHub, repo: Cached, writer: str) -> None:
    """What cannot be fetched stays, named; nothing whole goes with it."""
    os.truncate(repo.blob("w.safetensors"), 1000)
    with MockHub() as empty:
        report = await fix(empty, repo)
    assert 1 == report.exit_code
    assert {"w.safetensors"} == {finding.path for finding, _ in report.places[0].left}
    assert repo.name("tokenizer.json").exists()


async def test_a_repo_that_is_not_there_is_named(hub: MockHub, repo: Cached) -> None:
    with pytest.raises(AbsentError, match="is not in the cache"):
        await fix(hub, repo, repos=("org/other",))


# --- purge ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def two(tmp_path: Path) -> Path:
    """A cache with two revisions of one repo: the older one has lost its ref."""
    with MockHub(a_world()) as other:
        cache = tmp_path / "two"
        given = GetOptions(repo=REPO, endpoint=other.endpoint, cache_dir=cache, token="", retries=3)
        await get(given, ignore)
        other.world.repo(REPO).commit({"tokenizer.json": b'{"new": true}\n'})
        await get(given, ignore)
    return cache


def revisions(cache: Path) -> set[str]:
    return {revision.commit_hash for each in scan_cache_dir(cache).repos for revision in each.revisions}


async def purged(cache: Path, **more: object) -> FixReport:
    given = FixOptions(cache_dir=cache, token="", offline=True, purge=PurgeOptions(**more))  # type: ignore[arg-type]
    report = await run(given, ignore)
    assert not scan_cache_dir(cache).warnings
    return report


async def test_nothing_whole_goes_without_being_asked_for(two: Path) -> None:
    before = revisions(two)
    await purged(two)
    assert 2 == len(before)
    assert before == revisions(two)


async def test_a_revision_without_a_ref_goes_with_what_it_alone_leads_to(two: Path) -> None:
    repo = Cached(two)
    kept, shared = repo.commit, inodes(repo)
    report = await purged(two, unreferenced=True)
    assert {kept} == revisions(two)
    (one,) = report.places[0].purged
    assert 1 == len(one.blobs), "only the old tokenizer"
    assert set(shared) - set(inodes(repo)) == set(one.blobs)
    assert 0 == (await run(FixOptions(cache_dir=two, token="", offline=True), ignore)).exit_code


async def test_pins_are_never_touched(two: Path) -> None:
    before = revisions(two)
    await purged(two, unreferenced=True, older_than_s=0.0, max_size=0, pins=("org/*",))
    assert before == revisions(two)
    old = next(iter(before - {Cached(two).commit}))
    await purged(two, older_than_s=0.0, pins=(f"{REPO}@{old[:10]}",))
    assert {old} == revisions(two)


async def test_the_least_recently_used_go_first_until_the_cache_fits(two: Path) -> None:
    repo = Cached(two)
    old = next(iter(revisions(two) - {repo.commit}))
    # Every name of the new one, its blobs with it: they were used a month ago.
    month = time.time() - 30 * 86400
    for path in repo.snapshot.rglob("*"):
        if path.is_symlink():
            os.utime(path, (month, month), follow_symlinks=False)
    for path in (repo.root / "snapshots" / old).rglob("*"):
        if path.is_symlink():
            os.utime(path, (month - 86400, month - 86400), follow_symlinks=False)
    for blob in (repo.root / "blobs").iterdir():
        os.utime(blob, (month - 2 * 86400, month - 2 * 86400))
    size = scan_cache_dir(two).size_on_disk
    await purged(two, max_size=size)
    assert 2 == len(revisions(two))
    await purged(two, max_size=size - 1)
    assert {repo.commit} == revisions(two)
    await purged(two, older_than_s=29 * 86400)
    assert set() == revisions(two)


async def test_so_many_revisions_are_kept(two: Path) -> None:
    await purged(two, keep_revisions=1)
    assert {Cached(two).commit} == revisions(two)


async def test_the_quarantine_is_emptied_only_when_asked(hub: MockHub, repo: Cached) -> None:
    os.truncate(repo.blob("w.safetensors"), A_DAY_AND_MORE)
    await fix(hub, repo)
    quarantine = repo.area / "quarantine"
    assert any(quarantine.iterdir())
    report = await fix(hub, repo, empty_quarantine=True)
    assert A_DAY_AND_MORE == report.bytes_freed
    assert not quarantine.exists()


# --- the store that all repos share -----------------------------------------------------------------------------

XET = "ab" * 32
OTHER = "org/twin"


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[tuple[MockHub, Cached]]:
    """A cache of two repos whose weights are one payload of the shared store, made by the hub's own function."""
    shared_blobs = pytest.importorskip("huggingface_hub.utils._shared_blobs", reason="this line has no shared store")
    world = a_world()
    world.add(OTHER, FILES)
    with MockHub(world) as both:
        repo = Cached(tmp_path / "shared")
        for name in (REPO, OTHER):
            await get(GetOptions(repo=name, endpoint=both.endpoint, cache_dir=repo.cache, token="", retries=3), ignore)
            place = repo.cache / f"models--{name.replace('/', '--')}" / "blobs" / WEIGHTS.sha256()
            given = {"cache_dir": repo.cache, "expected_size": WEIGHTS.size}
            if name == REPO:
                shared_blobs.publish_blob_to_shared_store(blob_path=str(place), xet_hash=XET, **given)
            else:
                shared_blobs.try_link_from_shared_store(blob_path=str(place), xet_hash=XET, **given)
            assert place.is_symlink()
        yield both, repo


def payload(repo: Cached) -> Path:
    return repo.cache / "blobs" / XET[:2] / XET


async def test_a_bad_shared_payload_is_fetched_once_and_mended_for_all(shared: tuple[MockHub, Cached]) -> None:
    hub, repo = shared
    payload(repo).chmod(0o644)
    with payload(repo).open("r+b") as file:
        file.seek(9 * MiB)
        file.write(b"rot")
    hub.ledger.clear()
    report = await fix(hub, repo)
    assert 0 == report.exit_code, report.as_json()
    assert {"w.safetensors": BLOCK} == bytes_asked_for(hub)
    assert WEIGHTS.read(0, WEIGHTS.size) == payload(repo).read_bytes()
    for name in ("model", "twin"):
        place = repo.cache / f"models--org--{name}" / "blobs" / WEIGHTS.sha256()
        assert place.is_symlink()
    assert not await damage_left(hub, repo)
    assert not scan_cache_dir(repo.cache).warnings


async def test_what_the_shared_store_forgot_is_noted_again(shared: tuple[MockHub, Cached]) -> None:
    """Without its `.refs` the hub's clean-up would delete a payload; without its marker it ignores the store."""
    hub, repo = shared
    refs = payload(repo).with_name(f"{XET}.refs")
    before = set(refs.read_text().splitlines())
    refs.write_text("")
    payload(repo).chmod(0o666)
    marker = repo.cache / "blobs" / ".huggingface-shared-blobs"
    marker.unlink()
    assert 0 == (await fix(hub, repo)).exit_code
    assert before == set(refs.read_text().splitlines())
    assert not payload(repo).stat().st_mode & 0o222
    assert "1\n" == marker.read_text()
    left = await verify(VerifyOptions(all=True, offline=True, cache_dir=repo.cache, token=""), ignore)
    assert not [finding.kind for place in left.places for finding in place.verdict.findings]


async def test_a_payload_goes_with_its_last_user(shared: tuple[MockHub, Cached]) -> None:
    _, repo = shared
    purge = PurgeOptions(older_than_s=-1.0, pins=(OTHER,))
    await run(FixOptions(cache_dir=repo.cache, token="", offline=True, purge=purge), ignore)
    assert payload(repo).exists(), "the other repo uses it"
    assert [OTHER] == [each.repo_id for each in scan_cache_dir(repo.cache).repos if each.revisions]
    report = await run(FixOptions(cache_dir=repo.cache, token="", offline=True, purge=replace(purge, pins=())), ignore)
    assert not payload(repo).exists()
    assert report.bytes_freed >= WEIGHTS.size
