"""What another process does between the look and the repair: nothing of its is broken, and nothing false is said."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.events import ignore
from fetchverify.store.mending import Mender
from fetchverify.store.owner import myself
from mock_server import MockHub
from tests.damage import CATALOGUE, FOLDER, NOWHERE, REPO, TOKENIZER, WEIGHTS, Cached, a_world
from tests.faults.test_fix_cache import bytes_asked_for, damage_left, fix

pytestmark = [pytest.mark.anyio, pytest.mark.leaves_damage]

BY_NAME = {damage.name: damage for damage in CATALOGUE}
Change = Callable[[Cached], object]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def hub() -> Iterator[MockHub]:
    with MockHub(a_world()) as running:
        yield running


@pytest.fixture(scope="module")
def pristine(hub: MockHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ours")
    anyio.run(get, GetOptions(repo=REPO, endpoint=hub.endpoint, cache_dir=made, token="", retries=3), ignore)
    return made


@pytest.fixture
def repo(pristine: Path, tmp_path: Path) -> Cached:
    shutil.copytree(pristine, tmp_path / "cache", symlinks=True)
    return Cached(tmp_path / "cache")


@pytest.fixture
def meanwhile(repo: Cached, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Do something once all is known and planned, and before the first step."""
    changes: list[Change] = []
    begin = Mender.__init__

    def begun(self: Mender, *words: object) -> None:
        begin(self, *words)  # type: ignore[arg-type]
        while changes:
            changes.pop()(repo)

    monkeypatch.setattr(Mender, "__init__", begun)
    return changes.append


def _blobs(repo: Cached) -> None:
    shutil.rmtree(repo.root / "blobs")


def _everything(repo: Cached) -> None:
    shutil.rmtree(repo.root)


@pytest.mark.parametrize(
    ("damage", "vanishes"),
    [
        ("blob cannot be read", lambda repo: repo.blob("w.safetensors").unlink()),
        ("corrupt blob without link", lambda repo: (repo.root / "blobs" / ("12" * 32)).unlink()),
        ("corrupt blob without link", _blobs),
        ("the hub's orphan", lambda repo: next((repo.root / "blobs").glob("*.incomplete")).unlink()),
        ("a stale lock", lambda repo: shutil.rmtree(repo.cache / ".locks" / FOLDER)),
        ("empty ref", lambda repo: (repo.root / "refs" / "dev").unlink()),
        ("ref to no snapshot", lambda repo: (repo.root / "refs" / "dev").unlink()),
        (
            "snapshot without files",
            lambda repo: (repo.root / "snapshots" / NOWHERE).rmdir(),
        ),
        ("noted as not existing", lambda repo: shutil.rmtree(repo.root / ".no_exist")),
        ("listing is rubbish", lambda repo: shutil.rmtree(repo.root / "trees")),
        ("a temporary file", lambda repo: shutil.rmtree(repo.area / "tmp")),
        ("our dead partial", lambda repo: shutil.rmtree(repo.area / "partial")),
        ("name removed", lambda repo: shutil.rmtree(repo.snapshot)),
        ("a byte flipped", lambda repo: repo.blob("w.safetensors").unlink()),
        ("blob is a folder", lambda repo: (repo.root / "blobs" / WEIGHTS.sha256()).rmdir()),
        ("all blobs removed", lambda repo: shutil.rmtree(repo.root / "snapshots")),
        ("empty ref", _everything),
        ("blob cannot be read", _everything),
        ("a byte flipped", _everything),
    ],
)
async def test_what_vanishes_before_its_turn_ends_no_run(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None], damage: str, vanishes: Change
) -> None:
    """`hf cache rm`, or a second repair, beside ours: no traceback, and the end is what the disk says."""
    BY_NAME[damage].do(repo)
    meanwhile(vanishes)
    report = await fix(hub, repo)
    left = await damage_left(hub, repo)
    assert bool(left) is bool(report.exit_code), report.as_json()
    assert 0 == (await fix(hub, repo)).exit_code
    assert not await damage_left(hub, repo)


@pytest.mark.parametrize("damage", ["the hub's orphan", "corrupt blob without link", "a stale lock"])
async def test_what_somebody_else_removed_is_not_claimed(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None], damage: str
) -> None:
    BY_NAME[damage].do(repo)
    gone = [
        place for place in repo.cache.rglob("*") if place.suffix in {".incomplete", ".lock"} or place.name == "12" * 32
    ]
    for place in gone:
        meanwhile(lambda _, place=place: place.unlink())  # type: ignore[misc]
    report = await fix(hub, repo)
    assert (0, [], 0) == (report.exit_code, [step.key for step in report.places[0].steps], report.bytes_freed)


# --- what was replaced ------------------------------------------------------------------------------------------


async def test_a_blob_that_became_good_is_not_set_aside(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None]
) -> None:
    name = hashlib.sha256(b"good").hexdigest()
    blob = repo.root / "blobs" / name
    blob.write_bytes(b"bad!")
    os.utime(blob, (1, 1))
    fresh = repo.root / "fresh"
    fresh.write_bytes(b"good")
    meanwhile(lambda _: fresh.replace(blob))
    report = await fix(hub, repo)
    assert (0, [], b"good") == (report.exit_code, list(report.places[0].steps), blob.read_bytes())
    assert not (repo.area / "quarantine").exists()


async def test_a_blob_that_became_good_is_neither_fetched_nor_moved(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None]
) -> None:
    """A download beside us was faster: its file is proved where it lies."""
    repo.write("tokenizer.json", b"rotten")
    blob, fresh = repo.blob("tokenizer.json"), repo.root / "fresh"
    fresh.write_bytes(TOKENIZER)
    inode = fresh.stat().st_ino
    meanwhile(lambda _: fresh.replace(blob))
    hub.ledger.clear()
    report = await fix(hub, repo)
    assert (0, {}, inode) == (report.exit_code, bytes_asked_for(hub), repo.blob("tokenizer.json").stat().st_ino)
    assert not await damage_left(hub, repo)


async def test_a_download_that_goes_on_keeps_its_partial(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None]
) -> None:
    """The hub's client begins between the look and the step, writes, and has not taken its lock again yet."""
    BY_NAME["the hub's orphan"].do(repo)
    (orphan,) = (repo.root / "blobs").glob("*.incomplete")
    meanwhile(lambda _: orphan.write_bytes(b"y" * 2000))
    report = await fix(hub, repo)
    assert (0, [], b"y" * 2000) == (report.exit_code, list(report.places[0].steps), orphan.read_bytes())


async def test_a_ref_that_was_written_meanwhile_stays(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None]
) -> None:
    commit = repo.commit
    for damage in ("empty ref", "ref to no snapshot"):
        BY_NAME[damage].do(repo)
        meanwhile(lambda repo: (repo.root / "refs" / "dev").write_text(commit))
        assert 0 == (await fix(hub, repo)).exit_code
        assert commit == (repo.root / "refs" / "dev").read_text()


async def test_a_lock_that_is_taken_meanwhile_stays(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None]
) -> None:
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    BY_NAME["a stale lock"].do(repo)
    (place,) = (repo.cache / ".locks" / FOLDER).glob(f"{'ab' * 32}.lock")
    held = WeakFileLock(place)
    meanwhile(lambda _: held.__enter__())
    try:
        assert 0 == (await fix(hub, repo)).exit_code
        assert place.exists()
    finally:
        held.__exit__(None, None, None)


async def test_a_partial_that_somebody_went_on_with_stays(
    hub: MockHub, repo: Cached, meanwhile: Callable[[Change], None]
) -> None:
    BY_NAME["our dead partial"].do(repo)
    (partial,) = (repo.area / "partial").iterdir()
    for name in ("data", "journal"):
        (partial / name).write_bytes(b"")
    os.utime(partial, (1, 1))
    meanwhile(lambda _: (partial / "owner").write_bytes(myself().as_bytes()))
    report = await fix(hub, repo)
    assert (0, [], True) == (report.exit_code, list(report.places[0].steps), partial.exists())
