"""`verify` names every damage of the catalogue, in caches of the hub's client and in ours, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from huggingface_hub import snapshot_download

from fetchverify.commands.get import GetOptions
from fetchverify.commands.get import run as get
from fetchverify.commands.verify import run
from fetchverify.commands.verifyoptions import VerifyOptions
from fetchverify.core.facts import How
from fetchverify.core.findings import Kind, Rank
from fetchverify.core.verified import VerifyReport
from fetchverify.errors import AbsentError, NetworkError, UsageError
from fetchverify.events import ignore
from mock_server import MiB, MockHub
from tests.damage import CATALOGUE, FILES, REPO, WEIGHTS, Cached, Damage, a_world, names_of

pytestmark = [pytest.mark.anyio, pytest.mark.leaves_damage]

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: nothing here depends on the loop."""
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


async def verify(hub: MockHub, repo: Cached, **more: object) -> VerifyReport:
    given = {"target": REPO, "endpoint": hub.endpoint, "cache_dir": repo.cache, "token": "", "retries": 1}
    return await run(VerifyOptions(**{**given, **more}), ignore)  # type: ignore[arg-type]


def found(report: VerifyReport, *ranks: Rank) -> set[Kind]:
    return {
        finding.kind
        for place in report.places
        for finding in place.verdict.findings
        if finding.kind.rank in (ranks or (Rank.DAMAGE,))
    }


@pytest.mark.parametrize("damage", CATALOGUE, ids=names_of())
async def test_every_damage_is_named(hub: MockHub, repo: Cached, writer: str, damage: Damage) -> None:
    if damage.ours and writer != "ours":
        return
    damage.do(repo)
    report = await verify(hub, repo)
    if damage.litter:
        assert damage.kinds <= found(report, Rank.LITTER)
        assert (set(), 0) == (found(report), report.exit_code)
    else:
        assert (set(damage.kinds), 1) == (found(report), report.exit_code)


async def test_a_healthy_cache_is_proved_whole_and_then_not_read_again(hub: MockHub, repo: Cached) -> None:
    first = await verify(hub, repo)
    assert (0, len(FILES)) == (first.exit_code, sum(first.places[0].verdict.good.values()))
    assert not first.places[0].verdict.findings
    hub.ledger.clear()
    second = await verify(hub, repo)
    assert (0, 0, 0) == (second.exit_code, second.files_hashed, second.bytes_hashed)
    assert {How.LEDGER} == {how for _, how in second.places[0].verdict.good}
    assert 0 == len(hub.ledger.requests()), "the listing was confirmed, and a commit never changes"


async def test_deep_reads_everything_again(hub: MockHub, repo: Cached) -> None:
    await verify(hub, repo)
    report = await verify(hub, repo, deep=True)
    assert report.bytes_hashed >= WEIGHTS.size
    assert {How.HASHED} == {how for _, how in report.places[0].verdict.good}


async def test_rot_that_kept_its_times_is_found_by_deep_and_by_quick(
    hub: MockHub, pristine: dict[str, Path], tmp_path: Path
) -> None:
    """A bad disk changes no time; the ledger cannot know, the blocks' checksums and the digest do."""
    cache = tmp_path / "cache"
    await get(GetOptions(repo=REPO, endpoint=hub.endpoint, cache_dir=cache, token="", retries=3), ignore)
    repo = Cached(cache)
    seen = repo.blob("w.safetensors").stat()
    with repo.blob("w.safetensors").open("r+b") as file:
        file.seek(9 * MiB)
        file.write(b"rot")
    os.utime(repo.blob("w.safetensors"), ns=(seen.st_atime_ns, seen.st_mtime_ns))
    for mode in ("quick", "deep"):
        report = await verify(hub, repo, **{mode: True})
        (finding,) = report.places[0].verdict.of_rank(Rank.DAMAGE)
        assert (Kind.CORRUPT, (1,)) == (finding.kind, finding.blocks), mode


async def test_offline_says_what_each_file_was_proved_against(hub: MockHub, repo: Cached, writer: str) -> None:
    hub.ledger.clear()
    report = await verify(hub, repo, offline=True, details=True)
    assert 0 == report.exit_code
    against = {path: evidence.name for _, path, evidence, _ in report.places[0].files}
    assert set(FILES) == set(against)
    assert {"LISTING"} == set(against.values())
    shutil.rmtree(repo.root / "trees")
    report = await verify(hub, repo, offline=True, details=True)
    assert {"BLOB_NAME"} == {evidence.name for _, _, evidence, _ in report.places[0].files}
    assert 0 == len(hub.ledger.requests())


async def test_what_nothing_here_can_prove_fails_only_when_strict(hub: MockHub, repo: Cached) -> None:
    shutil.rmtree(repo.root / "trees")
    repo.copied("tokenizer.json")
    report = await verify(hub, repo, offline=True)
    assert (0, {Kind.UNPROVED}) == (report.exit_code, found(report, Rank.UNPROVED))
    assert 1 == (await verify(hub, repo, offline=True, strict=True)).exit_code
    assert 0 == (await verify(hub, repo)).exit_code, "the Hub knows"


async def test_the_commit_that_is_here_is_the_truth_not_todays(hub: MockHub, tmp_path: Path) -> None:
    with MockHub(a_world()) as other:
        cache = tmp_path / "cache"
        options = GetOptions(repo=REPO, endpoint=other.endpoint, cache_dir=cache, token="", retries=3)
        await get(options, ignore)
        other.world.repo(REPO).commit({"tokenizer.json": b"{}\n"})
        repo = Cached(cache)
        assert 0 == (await verify(other, repo)).exit_code
        with pytest.raises(AbsentError, match="is not in the cache"):
            await verify(other, repo, revision="main")


async def test_missing_files_may_be_allowed(hub: MockHub, repo: Cached) -> None:
    repo.name("tokenizer.json").unlink()
    assert 1 == (await verify(hub, repo)).exit_code
    assert 0 == (await verify(hub, repo, allow_missing=True)).exit_code


async def test_all_goes_on_without_the_hub_and_says_so(repo: Cached) -> None:
    report = await run(
        VerifyOptions(all=True, endpoint="http://127.0.0.1:9", cache_dir=repo.cache, token="", retries=1), ignore
    )
    assert 4 == report.exit_code
    assert report.places[0].trouble is not None
    assert len(FILES) == sum(report.places[0].verdict.good.values())


async def test_one_repo_without_the_hub_is_an_error(repo: Cached) -> None:
    with pytest.raises(NetworkError):
        await run(
            VerifyOptions(
                target=REPO, endpoint="http://127.0.0.1:9", cache_dir=repo.cache, token="", deep=True, retries=1
            ),
            ignore,
        )


# --- folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def folder(writer: str, hub: MockHub, tmp_path: Path) -> Path:
    """A folder of ours, or one of the hub's client."""
    place = tmp_path / "folder"
    if writer == "hub":
        snapshot_download(REPO, local_dir=place, endpoint=hub.endpoint, token=False)
    else:
        options = GetOptions(
            repo=REPO, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", to=place, token="", retries=3
        )
        await get(options, ignore)
    return place


async def verify_folder(hub: MockHub, place: Path, **more: object) -> VerifyReport:
    given = {"target": str(place), "endpoint": hub.endpoint, "token": "", "retries": 1}
    return await run(VerifyOptions(**{**given, **more}), ignore)  # type: ignore[arg-type]


@pytest.mark.parametrize("offline", [False, True])
async def test_a_folder_is_proved_and_its_damage_named(hub: MockHub, folder: Path, writer: str, offline: bool) -> None:
    more = {"repo": REPO} if writer == "hub" and not offline else {}
    report = await verify_folder(hub, folder, offline=offline, **more)
    assert (0, len(FILES)) == (report.exit_code, sum(report.places[0].verdict.good.values()))
    with (folder / "w.safetensors").open("r+b") as file:
        file.seek(MiB)
        file.write(b"rot")
    (folder / "tokenizer.json").unlink()
    (folder / "mine.txt").write_text("mine")
    report = await verify_folder(hub, folder, offline=offline, **more)
    assert (1, {Kind.CORRUPT, Kind.MISSING}) == (report.exit_code, found(report))
    assert "mine.txt" in {finding.path for finding in report.places[0].verdict.of_rank(Rank.LITTER)}


async def test_sums_are_written_for_sha256sum_and_read_back(hub: MockHub, folder: Path, tmp_path: Path) -> None:
    (folder / "line\nbreak \\ and é.txt").write_bytes(b"awkward")
    await verify_folder(hub, folder, write_sums=Path(), offline=True)
    told = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False)
    assert 0 == told.returncode, told.stderr
    assert len(FILES) == told.stdout.count(": OK")
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(".fetchverify", ".cache"))
    assert 0 == (await verify_folder(hub, bare, offline=True)).exit_code
    (bare / "w.safetensors").write_bytes(b"cut")
    report = await verify_folder(hub, bare, offline=True)
    assert (1, {Kind.CORRUPT}) == (report.exit_code, found(report))
    sums = bare / "SHA256SUMS"
    assert 1 == (await verify_folder(hub, bare, sums=sums)).exit_code


async def test_a_folder_that_is_none_is_a_usage_error(hub: MockHub, tmp_path: Path) -> None:
    with pytest.raises((UsageError, AbsentError)):
        await verify_folder(hub, tmp_path / "nowhere")
    (tmp_path / "f").write_text("nothing\n")
    with pytest.raises(UsageError, match="sums"):
        await verify_folder(hub, tmp_path, sums=tmp_path / "f")
