"""A seal spares a second run its work, and vouches for nothing that is another now."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetchverify.commands import verifycache as room
from fetchverify.core.facts import CacheFacts, How
from fetchverify.core.findings import Kind, Rank, Verdict
from fetchverify.core.judging.cache import judge_contents
from fetchverify.core.manifest import Digest
from fetchverify.core.verified import VerifyReport
from fetchverify.store import unread
from fetchverify.store.disk import Disk
from fetchverify.store.proofs import Proofs, source_of
from fetchverify.store.scan import Scan
from fetchverify.store.seal import read_seal
from fetchverify.store.survey import survey_cache
from mock_server import MiB, MockHub
from tests.damage import CATALOGUE, FILES, FOLDER, REPO, WEIGHTS, Cached, Damage, names_of
from tests.faults.test_verify import anyio_backend, found, hub, pristine, repo, verify, writer

__all__ = ["anyio_backend", "hub", "pristine", "repo", "writer"]

pytestmark = [pytest.mark.anyio, pytest.mark.leaves_damage]

SEALS = ("seal-hub", "seal-here")


def seals(repo: Cached) -> set[str]:
    return {name for name in SEALS if (repo.area / name).exists()}


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether folders come to rest at once, or never."""
    at_once: bool = getattr(request, "param", True)
    monkeypatch.setattr(unread, "_TICK_NS", 0 if at_once else 10**20)
    monkeypatch.setattr("fetchverify.store.survey.tells_of_changes", lambda _: True)  # containers lie on an overlay
    return at_once


both = pytest.mark.parametrize("settled", [True, False], ids=["settled", "young"], indirect=True)


async def sealed(hub: MockHub, repo: Cached, **more: object) -> VerifyReport:
    report = await verify(hub, repo, **more)
    assert (0, [], 1) == (report.exit_code, report.places[0].verdict.findings, len(seals(repo)))
    return report


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The repos of which every name was judged, one by one."""
    roots: list[str] = []
    judge = judge_contents

    def counted(facts: CacheFacts, *words: Any, **more: Any) -> Verdict:
        roots.append(facts.root)
        return judge(facts, *words, **more)

    monkeypatch.setattr(room, "judge_contents", counted)
    return roots


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots of which every name was read."""
    tops: list[str] = []
    tree = Scan.tree

    def counted(scan: Scan, top: str, **more: Any) -> Any:
        if top.startswith("snapshots/"):
            tops.append(top)
        return tree(scan, top, **more)

    monkeypatch.setattr(Scan, "tree", counted)
    return tops


@both
async def test_a_snapshot_whose_folders_rest_is_not_read_again(
    hub: MockHub, repo: Cached, settled: bool, read: list[str]
) -> None:
    first = await sealed(hub, repo)
    assert [f"snapshots/{repo.commit}"] == read
    read.clear()
    again = await sealed(hub, repo)
    assert ([] if settled else [f"snapshots/{repo.commit}"]) == read
    assert first.places[0].weights == again.places[0].weights != ()


async def test_a_snapshot_that_came_to_rest_is_not_read_again(
    hub: MockHub, repo: Cached, judged: list[str], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "_TICK_NS", 10**20)
    await sealed(hub, repo)
    monkeypatch.setattr(unread, "_TICK_NS", 0)
    judged.clear()
    await sealed(hub, repo)
    read.clear()
    await sealed(hub, repo)
    assert ([], []) == (judged, read)


async def test_names_are_read_where_anything_else_changed(
    hub: MockHub, repo: Cached, judged: list[str], read: list[str]
) -> None:
    await sealed(hub, repo)
    judged.clear()
    read.clear()
    repo.flip("w.safetensors", 9)
    report = await verify(hub, repo)
    assert ([str(repo.root)], [f"snapshots/{repo.commit}"]) == (judged, read)
    assert {"w.safetensors"} == {finding.path for finding in report.places[0].verdict.findings}


async def test_a_seal_that_is_broken_hides_nothing_of_where_links_lead(
    hub: MockHub, repo: Cached, tmp_path: Path
) -> None:
    """Folders that were moved are the same folders; links by absolute paths lead nowhere then."""
    shutil.rmtree(repo.root / "trees", ignore_errors=True)
    for path in FILES:
        repo.relink(path, str(repo.blob(path)))
    await sealed(hub, repo, offline=True)
    repo.cache.rename(tmp_path / "moved")
    report = await verify(hub, Cached(tmp_path / "moved"), offline=True)
    lost = {finding.path for finding in report.places[0].verdict.findings if finding.kind is Kind.DANGLING}
    assert (1, set(FILES)) == (report.exit_code, lost)


async def test_a_disk_that_others_write_to_as_well_is_read_each_time(
    hub: MockHub, repo: Cached, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fetchverify.store.survey.tells_of_changes", lambda _: False)
    await sealed(hub, repo)
    await sealed(hub, repo)
    assert 2 == len(read)


@both
@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize("all_of_it", [False, True], ids=["one", "all"])
async def test_the_second_run_judges_no_name_and_says_the_same(
    hub: MockHub, repo: Cached, judged: list[str], offline: bool, all_of_it: bool
) -> None:
    more: dict[str, object] = {"target": None, "all": True} if all_of_it else {}
    await sealed(hub, repo, offline=offline, **more)
    (repo.area / "seal-here" if offline else repo.area / "seal-hub").unlink()
    each = await sealed(hub, repo, offline=offline, **more)
    judged.clear()
    again = await verify(hub, repo, offline=offline, **more)
    assert [] == judged
    assert {**each.as_json(), "seconds": 0} == {**again.as_json(), "seconds": 0}
    assert len(FILES) == sum(again.places[0].verdict.good.values())


@pytest.mark.parametrize("damage", CATALOGUE, ids=names_of())
async def test_a_seal_hides_no_damage(hub: MockHub, repo: Cached, writer: str, damage: Damage) -> None:
    if damage.ours and writer != "ours":
        return
    await sealed(hub, repo)
    damage.do(repo)
    report = await verify(hub, repo)
    ranks = (Rank.LITTER,) if damage.litter else (Rank.DAMAGE,)
    assert damage.kinds <= found(report, *ranks)
    assert (0 if damage.litter else 1) == report.exit_code


def _rot(repo: Cached) -> None:
    blob = repo.blob("w.safetensors")
    seen = blob.stat()
    with blob.open("r+b") as file:
        file.seek(9 * MiB)
        file.write(b"rot")
    os.utime(blob, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def _forget(repo: Cached) -> None:
    proofs = Proofs.load(Disk(), repo.area)
    proofs.forget(Digest(algo="sha256", hex=WEIGHTS.sha256()), repo.blob("w.safetensors").lstat())


def _another_revision(repo: Cached) -> None:
    shutil.copytree(repo.snapshot, repo.snapshot.with_name("ab" * 20), symlinks=True)


def _a_link_for_a_folder(repo: Cached) -> None:
    away = repo.cache / "away"
    repo.name("sub").rename(away)
    repo.name("sub").symlink_to(away)


def _holds(repo: Cached) -> bool:
    seal = read_seal(repo.area, asked=True)
    assert seal is not None
    return seal.holds(survey_cache(repo.cache, FOLDER, sealed=seal.folders), source_of(repo.area), asked=True)


@both
@pytest.mark.parametrize(
    "change",
    [
        _rot,
        _forget,
        _another_revision,
        lambda repo: (repo.area / "proofs").unlink(),
        lambda repo: (repo.area / "proofs").write_bytes((repo.area / "proofs").read_bytes()),
        lambda repo: os.utime(repo.blob("config.json")),
        lambda repo: os.utime(repo.root / "trees" / f"{repo.commit}.json"),
        lambda repo: repo.relink("config.json", str(repo.blob("config.json"))),
        lambda repo: repo.name("mine.txt").symlink_to("../../blobs/x"),
        lambda repo: repo.name("empty.txt").unlink(),
        lambda repo: repo.copied("config.json"),
        lambda repo: repo.relink("sub/twin.json", str(repo.blob("config.json"))),
        lambda repo: repo.name("sub/mine.txt").symlink_to("../../../blobs/x"),
        lambda repo: repo.name("sub/twin.json").unlink(),
        lambda repo: repo.name("sub/twin.json").rename(repo.name("sub/other.json")),
        lambda repo: repo.copied("sub/twin.json"),
        lambda repo: repo.name("sub").rename(repo.name("bus")),
        _a_link_for_a_folder,
    ],
    ids=[
        "bytes-with-times-set-back",
        "a-proof-forgotten",
        "another-revision",
        "ledger-removed",
        "ledger-rewritten",
        "blob-touched",
        "listing-touched",
        "link-of-another-text",
        "a-name-more",
        "a-name-less",
        "a-copy-for-a-link",
        "link-of-another-text-below",
        "a-name-more-below",
        "a-name-less-below",
        "a-name-renamed-below",
        "a-copy-for-a-link-below",
        "a-folder-renamed",
        "a-link-for-a-folder",
    ],
)
async def test_whatever_is_another_now_breaks_the_seal(
    hub: MockHub, repo: Cached, judged: list[str], change: Callable[[Cached], object]
) -> None:
    if not (repo.root / "trees").is_dir():
        return
    await sealed(hub, repo)
    assert _holds(repo)
    change(repo)
    assert not _holds(repo)
    judged.clear()
    await verify(hub, repo, offline=True)
    assert [str(repo.root)] == judged


async def test_without_its_ledger_everything_is_read(hub: MockHub, repo: Cached) -> None:
    await sealed(hub, repo)
    (repo.area / "proofs").unlink()
    report = await verify(hub, repo)
    assert (0, {How.HASHED}) == (report.exit_code, {how for _, how in report.places[0].verdict.good})


async def test_a_moved_cache_is_not_vouched_for(hub: MockHub, repo: Cached, tmp_path: Path) -> None:
    await sealed(hub, repo)
    shutil.copytree(repo.cache, tmp_path / "copy", symlinks=True)
    report = await verify(hub, Cached(tmp_path / "copy"))
    assert {How.HASHED} == {how for _, how in report.places[0].verdict.good}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"rubbish",
        b"[1, 2]",
        b"[" * 4000,
        b'["", [1, 2, [["HUB", "LEDGER", 3]]], {}, []]',
        b'["", [1, 2, [["HUB", "LEDGER", 3]]], {"%s": ["", ["", "a\\u0000b", "../../../.."]]}, []]' % (b"a" * 40),
        b'["", [1, 2, []], {"a": 1}, []]',
        b'["", [1e999, 2, []], {}, []]',
        b'["", [1, 2, [["HUB", "LEDGER", Infinity]]], {}, []]',
        b'["", [1, 2, []], [], []]',
        b"\xff" * 9,
        b"x" * (16 << 20) + b"x",
        None,
    ],
    ids=[
        "empty",
        "rubbish",
        "other",
        "deep",
        "unsealed",
        "paths",
        "folders",
        "endless",
        "infinite",
        "list",
        "no-text",
        "long",
        "torn",
    ],
)
async def test_a_damaged_seal_only_costs_time(hub: MockHub, repo: Cached, judged: list[str], raw: bytes | None) -> None:
    await sealed(hub, repo)
    place = repo.area / "seal-hub"
    whole = place.read_bytes()
    place.write_bytes(whole.replace(b", 6]", b", 7]") if raw is None else raw)
    assert whole != place.read_bytes()
    judged.clear()
    report = await verify(hub, repo)
    assert (0, 1, len(FILES)) == (report.exit_code, len(judged), sum(report.places[0].verdict.good.values()))
    assert whole == place.read_bytes()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda place: place.symlink_to("/dev/zero")])
async def test_a_seal_that_is_no_file_is_none(hub: MockHub, repo: Cached, make: Callable[[Path], object]) -> None:
    await sealed(hub, repo)
    (repo.area / "seal-hub").unlink()
    make(repo.area / "seal-hub")
    assert 0 == (await verify(hub, repo)).exit_code


async def test_what_was_held_against_what_lies_here_is_no_word_of_the_hub(hub: MockHub, repo: Cached) -> None:
    await sealed(hub, repo, offline=True)
    report = await verify(hub, repo)
    assert {"HUB"} == {evidence.name for evidence, _ in report.places[0].verdict.good}


@pytest.mark.parametrize(
    "more",
    [
        {"quick": True},
        {"deep": True},
        {"details": True},
        {"include": ("*.json",)},
        {"revision": "main"},
        {"target": f"{REPO}@refs/pr/1"},
    ],
    ids=["quick", "deep", "details", "include", "revision", "at"],
)
async def test_part_of_a_repo_is_not_sealed_nor_taken_from_a_seal(
    hub: MockHub, repo: Cached, judged: list[str], more: dict[str, object]
) -> None:
    (repo.root / "refs" / "refs" / "pr").mkdir(parents=True)
    shutil.copy(repo.root / "refs" / "main", repo.root / "refs" / "refs" / "pr" / "1")
    await verify(hub, repo, offline=True, **more)
    assert set() == seals(repo)
    await sealed(hub, repo, offline=True)
    judged.clear()
    await verify(hub, repo, offline=True, **more)
    assert 1 == len(judged)
