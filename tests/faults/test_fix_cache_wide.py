"""`fix-cache` over more than one repo: kinds of repos, hard links across them, what the report says of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from huggingface_hub import snapshot_download

from fetchverify.commands.fix_cache import run
from fetchverify.commands.fixing import FixOptions
from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.core.fixed import FixReport
from fetchverify.core.manifest import RepoKind
from fetchverify.events import ignore
from mock_server import MiB, MockHub, World
from tests.damage import FILES, REPO, TOKENIZER, WEIGHTS, Cached, a_world
from tests.faults.test_fix_cache import BLOCK, bytes_asked_for
from tests.hubcli import listed, verified

pytestmark = [pytest.mark.anyio, pytest.mark.leaves_damage]

TWIN = "org/twin"
KINDS: tuple[RepoKind, ...] = ("model", "dataset", "space")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def hub() -> Iterator[MockHub]:
    world = a_world()
    world.add(TWIN, FILES)
    with MockHub(world) as running:
        yield running


@pytest.fixture(scope="module")
def pristine(hub: MockHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    for name in (REPO, TWIN):
        anyio.run(get, GetOptions(repo=name, endpoint=hub.endpoint, cache_dir=made, token="", retries=3), ignore)
    return made


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "cache", symlinks=True)
    return tmp_path / "cache"


async def fix(hub: MockHub, cache: Path, **more: object) -> FixReport:
    given = {"endpoint": hub.endpoint, "cache_dir": cache, "token": "", "retries": 2}
    return await run(FixOptions(**{**given, **more}), ignore)  # type: ignore[arg-type]


def linked_hard(cache: Path) -> tuple[Path, Path]:
    """Make the twin's weights a hard link to the model's; return both names."""
    one, other = (cache / f"models--org--{name}" / "blobs" / WEIGHTS.sha256() for name in ("model", "twin"))
    other.unlink()
    other.hardlink_to(one)
    return one, other


def rot(blob: Path) -> None:
    with blob.open("r+b") as file:
        file.seek(9 * MiB)
        file.write(b"rot")


@pytest.mark.parametrize("named", [(), (REPO,), (TWIN,)], ids=["all", "the-one", "the-other"])
async def test_a_bad_inode_of_two_repos_is_fetched_once_and_both_get_the_good_one(
    hub: MockHub, cache: Path, named: tuple[str, ...]
) -> None:
    """A hard-linked mirror: one block comes over the network, and the repos go on sharing their bytes."""
    one, other = linked_hard(cache)
    rot(one)
    bad = one.stat().st_ino
    hub.ledger.clear()
    report = await fix(hub, cache, repos=named)
    assert 0 == report.exit_code, report.as_json()
    assert {"w.safetensors": BLOCK} == bytes_asked_for(hub)
    assert one.stat().st_ino == other.stat().st_ino != bad
    assert WEIGHTS.read(0, WEIGHTS.size) == other.read_bytes()
    hub.ledger.clear()
    again = await fix(hub, cache)
    assert (0, 0, [(), ()]) == (again.exit_code, again.bytes_fetched, [place.steps for place in again.places])
    for name in (REPO, TWIN):
        assert 0 == verified(cache, name, hub.endpoint)[0]


async def test_a_good_inode_of_two_repos_stays_one(hub: MockHub, cache: Path) -> None:
    one, other = linked_hard(cache)
    Cached(cache).blob("tokenizer.json").unlink()
    inode = one.stat().st_ino
    assert 0 == (await fix(hub, cache)).exit_code
    assert {inode} == {one.stat().st_ino, other.stat().st_ino}


async def test_hard_linked_names_of_a_bad_blob_are_all_mended(hub: MockHub, cache: Path) -> None:
    """Without symlinks every snapshot's name is the bad inode itself."""
    repo = Cached(cache)
    blob, name = repo.blob("w.safetensors"), repo.name("w.safetensors")
    name.unlink()
    name.hardlink_to(blob)
    rot(blob)
    assert 0 == (await fix(hub, cache)).exit_code
    assert WEIGHTS.read(0, WEIGHTS.size) == name.read_bytes() == blob.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", ["hub", "ours"])
async def test_models_datasets_and_spaces(tmp_path: Path, kind: RepoKind, writer: str) -> None:
    world = World()
    world.add(REPO, FILES, kind=kind)
    with MockHub(world) as hub:
        cache = tmp_path / "cache"
        if writer == "hub":
            snapshot_download(REPO, repo_type=kind, cache_dir=cache, endpoint=hub.endpoint, token=False)
        else:
            given = GetOptions(repo=REPO, repo_type=kind, endpoint=hub.endpoint, cache_dir=cache, token="", retries=3)
            await get(given, ignore)
        root = cache / f"{kind}s--org--model"
        commit = (root / "refs" / "main").read_text()
        (root / "snapshots" / commit / "w.safetensors").resolve().unlink()
        (root / "refs" / "dev").write_text("")
        assert [] == listed(cache)
        report = await fix(hub, cache, repos=(REPO,), repo_type=kind)
        assert (0, kind, REPO) == (report.exit_code, report.places[0].repo_type, report.places[0].name)
        assert [f"{kind}/{REPO}"] == listed(cache)
        assert 0 == verified(cache, REPO, hub.endpoint, kind)[0]
        found = snapshot_download(REPO, repo_type=kind, cache_dir=cache, local_files_only=True)
        assert WEIGHTS.read(0, WEIGHTS.size) == Path(found, "w.safetensors").read_bytes()


# --- folders that nobody may enter ------------------------------------------------------------------------------


def unprivileged(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run fetchverify as someone whom permissions stop, also where the tests run as root."""
    lost = "-dac_override,-dac_read_search"
    before = ["setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}"] if os.geteuid() == 0 else []
    if before and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    command = [*before, sys.executable, "-m", "fetchverify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("folder", "mode"),
    [
        ("blobs", 0),
        ("snapshots", 0o600),
        ("snapshots/*", 0),
        ("snapshots/*/sub", 0o600),
        ("refs", 0),
        ("trees", 0o300),
        (".", 0o600),
    ],
)
def test_a_folder_that_its_owner_may_not_enter_is_opened_again(
    hub: MockHub, cache: Path, folder: str, mode: int
) -> None:
    """What lies in it seemed to be missing: nothing of that is fetched."""
    place = next(Cached(cache).root.glob(folder)) if folder != "." else Cached(cache).root
    cache.chmod(0o755)
    right = place.stat().st_mode
    place.chmod(mode)
    hub.ledger.clear()
    common = ["--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(cache)]
    try:
        told = unprivileged("verify", REPO, *common)
        done = unprivileged("fix-cache", REPO, *common)
    finally:
        left = place.stat().st_mode
        place.chmod(right)
    assert 1 == told.returncode, (told.stdout, told.stderr)
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert (right, {}) == (left, bytes_asked_for(hub))
    assert "permissions" in done.stdout or "unreadable" in done.stdout


def test_a_blob_that_its_owner_may_not_read_is_opened_and_proved(hub: MockHub, cache: Path) -> None:
    Cached(cache).blob("w.safetensors").chmod(0)
    common = ["--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(cache)]
    assert 1 == unprivileged("verify", REPO, "--deep", *common).returncode
    hub.ledger.clear()
    done = unprivileged("fix-cache", REPO, "--deep", *common)
    assert (0, "", {}) == (done.returncode, done.stderr, bytes_asked_for(hub)), done.stdout
    assert 0 == unprivileged("verify", REPO, "--deep", *common).returncode


# --- the report -------------------------------------------------------------------------------------------------

STEP = {"act", "finding", "path", "key", "commit", "fetch", "frees", "blocks"}
FINDING = {
    *("finding", "rank", "path", "key", "names", "size"),
    *("commit", "digest", "evidence", "blocks", "came", "detail"),
}
REPORT = {
    *("kind", "exit_code", "dry_run", "places", "bytes_to_fetch"),
    *("bytes_fetched", "bytes_freed", "seconds", "requests"),
}


def of_types(value: dict[str, Any], types: dict[str, object]) -> None:
    for key, expected in types.items():
        assert isinstance(value[key], expected), (key, value[key])  # type: ignore[arg-type]


def test_json_of_a_repair_over_several_repos(hub: MockHub, cache: Path) -> None:
    """Programs read this: each key is there in each run, and of one type."""
    Cached(cache).blob("w.safetensors").unlink()
    (cache / "models--org--twin" / "refs" / "dev").write_text("")
    (cache / "models--org--gone").mkdir()  # nothing in it
    common = ["--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(cache), "--json"]
    common += ["--older-than", "1000d"]
    for more, code in ((["--dry-run"], 1), (["--offline"], 1), ([], 0), ([], 0)):
        command = [sys.executable, "-m", "fetchverify", "fix-cache", *more, *common]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout.splitlines()[-1])
        assert (code, code, set(REPORT)) == (done.returncode, told["exit_code"], set(told)), done.stdout
        of_types(told, {"kind": str, "dry_run": bool, "seconds": float, "bytes_to_fetch": int, "requests": int})
        assert ["org/gone", REPO, TWIN] == [place["repo_id"] for place in told["places"]]
        for place in told["places"]:
            assert {"repo_id", "repo_type", "target", "steps", "left", "purged"} == set(place)
            for step in place["steps"]:
                assert set(step) == STEP
                of_types(step, {"act": str, "finding": str, "fetch": int, "frees": int, "path": str})
            for left in place["left"]:
                assert {*FINDING, "why"} == set(left)
        if more == ["--dry-run"]:
            assert WEIGHTS.size == told["bytes_to_fetch"]
        if more == ["--offline"]:
            (left,) = told["places"][1]["left"]
            why = "it has to be fetched, and the network may not be asked"
            assert ("dangling", why) == (left["finding"], left["why"])


def test_json_of_a_verification_over_several_repos(hub: MockHub, cache: Path) -> None:
    Cached(cache).write("tokenizer.json", TOKENIZER[::-1])
    (cache / "models--org--twin" / "notes.txt").write_text("mine")
    command = ["verify", "--all", "--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(cache), "--json"]
    done = subprocess.run([sys.executable, "-m", "fetchverify", *command], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    report = lines[-1]
    assert (1, 1, "Report") == (done.returncode, report["exit_code"], report["kind"])
    assert [REPO, TWIN] == [place["repo_id"] for place in report["places"]]
    findings = [line for line in lines if line["kind"] == "Finding"]
    assert {("corrupt", "damage"), ("strange", "litter")} == {(one["finding"], one["rank"]) for one in findings}
    for one in findings:
        assert set(one) >= FINDING
    files = [line for line in lines if line["kind"] == "File"]
    assert 2 * len(FILES) - 1 == len(files)
    assert 1 == len({frozenset(one) for one in files}), "the same keys of each"
    assert 1 == len({frozenset(place) for place in report["places"]})
