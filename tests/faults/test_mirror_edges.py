"""`mirror` where little is missing to lose something: endpoints that say nothing, clocks that jump, killed runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fetchverify import events
from fetchverify.commands.mirror import sync
from fetchverify.commands.mirror.hooks import Heralds
from fetchverify.core.mirrorconfig import Hooks
from fetchverify.core.mirrored import Fate
from fetchverify.engine.audit import Auditor
from fetchverify.errors import UsageError
from fetchverify.sinks.mirrored import sync_lines
from fetchverify.store.mirrorbook import MirrorBook
from mock_server import Delay, MiB, MockHub, Seeded, Status, Trickle, World
from mock_server.world import FileValue
from tests.shims import preload
from tests.synced import DAY, HOUR, Mirror

FILES: dict[str, FileValue | None] = {"config.json": b'{"version": 1}\n', "model.safetensors": Seeded(MiB, seed="m")}
ONE = '[[repo]]\nid = "org/one"'
ALL = '[[repo]]\nid = "org/*"'


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    for name in ("one", "two", "three"):
        world.add(f"org/{name}", FILES)
    with MockHub(world) as running:
        yield running


@pytest.fixture
def mirror(hub: MockHub, tmp_path: Path) -> Mirror:
    found = Mirror(hub, tmp_path / "m")
    found.layout = "folders"
    found.write(ONE)
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_RETRIES", 1)


def commit_of(mirror: Mirror, repo_id: str = "org/one") -> str:
    return mirror.hub.world.repo(repo_id).head().id


def moved(mirror: Mirror, content: bytes, repo_id: str = "org/one") -> str:
    return mirror.hub.world.repo(repo_id).commit({"config.json": content})


def commits_of(mirror: Mirror) -> set[str]:
    return {path.name for path in (mirror.root / "org/one").iterdir() if len(path.name) == 40}


# --- accounts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [404, 500])
def test_an_account_that_cannot_be_listed_is_told_even_by_the_first_run(
    mirror: Mirror, impatient: None, code: int
) -> None:
    mirror.write(ALL)
    mirror.hub.fault(Status(code=code), path="/api/models")
    report = mirror.sync()
    assert (1, {"org/*": Fate.FAILED}) == (report.exit_code, {one.ref.repo_id: one.fate for one in report.done})
    assert "org/*" in sync_lines(report)[0]
    mirror.hub.clear_faults()
    assert {Fate.CHANGED} == set(mirror.fates().values())
    assert {"org/one", "org/two", "org/three"} == set(mirror.states()), "the account is forgotten again"


def test_an_account_without_repos_is_a_slip_and_not_a_mirror_that_is_fresh(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "Org/*"')
    report = mirror.sync()
    assert (1, [Fate.FAILED]) == (report.exit_code, [one.fate for one in report.done])
    assert "spelt" in sync_lines(report)[0]


def test_a_listing_that_fails_says_nothing_about_repos(mirror: Mirror, impatient: None) -> None:
    """Nor is a repo gone because an endpoint has no listings, nor does it rest after a night without one."""
    mirror.write(ALL, "purge = true")
    mirror.sync()
    for code in (404, 500):
        mirror.hub.fault(Status(code=code), path="/api/models")
        for _ in range(7):
            mirror.now += DAY
            fates = mirror.fates()
            assert {Fate.UNREACHED} == {fates[f"org/{name}"] for name in ("one", "two", "three")}
        mirror.hub.clear_faults()
        assert {"org/one": Fate.FRESH, "org/two": Fate.FRESH, "org/three": Fate.FRESH} == mirror.fates()


# --- an endpoint that is down --------------------------------------------------------------------------------


def test_a_night_without_an_endpoint_makes_no_repo_wait(mirror: Mirror, impatient: None) -> None:
    """A mirror of three repos must be as fresh in the morning as one of three thousand."""
    mirror.write("".join(f'[[repo]]\nid = "org/{name}"\n' for name in ("one", "two", "three")))
    mirror.sync()
    mirror.hub.fault(Status(code=503))
    for _ in range(12):
        mirror.now += HOUR
        report = mirror.sync()
        assert {Fate.UNREACHED} == {one.fate for one in report.done}
        assert 1 == report.exit_code
        assert 2 == len(sync_lines(report)), "one line and the sum, however many repos"
    mirror.hub.clear_faults()
    mirror.now += HOUR
    assert {Fate.FRESH} == set(mirror.fates().values())


def test_a_few_that_never_answer_do_not_stop_the_others_for_ever(mirror: Mirror, impatient: None) -> None:
    names = [f"n{number:02}" for number in range(30)]
    for name in names:
        mirror.hub.world.add(f"org/{name}", {"a": name.encode()})
        if name < "n20":
            mirror.hub.fault(Status(code=500), repo=f"org/{name}", path="/api/models/org/*")
    mirror.write("".join(f'[[repo]]\nid = "org/{name}"\n' for name in names))
    for _ in range(5):
        mirror.sync()
    assert [b"n29"] == list(mirror.seen("org/n29").values())
    fates = mirror.fates()
    assert {Fate.FRESH} == {fates[f"org/{name}"] for name in names if name >= "n20"}


def test_three_whose_bytes_never_come_do_not_stop_the_others_for_ever(mirror: Mirror, impatient: None) -> None:
    names = ("a", "b", "c", "d")
    for name in names:
        mirror.hub.world.add(f"org/{name}", {"w.bin": Seeded(MiB, seed=name)})
        if name != "d":
            mirror.hub.fault(Status(code=500), repo=f"org/{name}", path="w.bin")
    mirror.write("".join(f'[[repo]]\nid = "org/{name}"\n' for name in names))
    mirror.sync()
    mirror.sync()
    assert mirror.source("org/d") == mirror.seen("org/d")


def test_an_etag_that_no_header_can_carry_is_not_sent(mirror: Mirror, impatient: None) -> None:
    mirror.sync()
    book = mirror.root / ".fetchverify" / "state"
    head, line = book.read_text().splitlines()
    torn = json.dumps({**json.loads(line), "etag": "a\nAuthorization: b"})
    book.write_text(f"{head}\n{torn}\n")
    assert {"org/one": Fate.FRESH} == mirror.fates()


# --- purging -------------------------------------------------------------------------------------------------


def test_an_endpoint_that_is_down_purges_nothing(mirror: Mirror, impatient: None) -> None:
    """It was gone once, for whatever reason; that nobody answers now does not make it more so."""
    for number in range(6):
        mirror.hub.world.add(f"org/n{number}", {"a": b"%d" % number})
    others = "".join(f'[[repo]]\nid = "org/n{number}"\n' for number in range(6))
    mirror.write(f"{ONE}\n{others}", "purge = true")
    mirror.sync()
    held = mirror.seen()
    mirror.hub.world.remove("org/one")
    for _ in range(3):
        assert Fate.GONE is mirror.fates()["org/one"]
    mirror.now += 2 * DAY
    mirror.hub.fault(Status(code=503))
    assert Fate.UNREACHED is mirror.fates()["org/one"]
    assert held == mirror.seen()
    mirror.hub.clear_faults()
    assert Fate.PURGED is mirror.fates()["org/one"]


def test_a_purged_repo_takes_no_other_with_it(mirror: Mirror) -> None:
    """A repo without an account lies where an account of its name has its repos."""
    mirror.hub.world.add("org", FILES)
    mirror.write(f'[[repo]]\nid = "org"\n{ONE}', "purge = true")
    mirror.sync()
    mirror.hub.world.remove("org")
    for _ in range(3):
        assert Fate.FRESH is mirror.fates()["org/one"]
        mirror.now += DAY
    assert "org" not in mirror.states()
    assert {"one"} == {path.name for path in (mirror.root / "org").iterdir()}
    assert mirror.source() == mirror.seen()


def test_a_clock_that_jumps_purges_nothing(mirror: Mirror) -> None:
    """Machines without a clock of their own begin in 1970, and have their first answer before the time."""
    mirror.write(ONE, "purge = true")
    mirror.sync()
    held, right = mirror.seen(), mirror.now
    mirror.hub.world.remove("org/one")
    mirror.now = 60.0
    assert Fate.GONE is mirror.fates()["org/one"]
    mirror.now = right + 60
    assert Fate.GONE is mirror.fates()["org/one"]
    assert held == mirror.seen()


# --- what a kill leaves --------------------------------------------------------------------------------------


def test_a_commit_that_nobody_noted_goes_when_its_time_comes(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be killed after it published and before it noted so."""
    mirror.write(f"{ONE}\nkeep = 1")
    mirror.sync()
    moved(mirror, b"2")
    with monkeypatch.context() as killed:
        killed.setattr(MirrorBook, "save", lambda self, states: None)
        killed.setattr(sync._Sync, "_prune", lambda self, ref, entry, place: None)
        mirror.sync()
    last = moved(mirror, b"3")
    mirror.sync()
    assert {last} == commits_of(mirror)


def test_a_lost_book_costs_readers_no_commit_that_was_to_stay(mirror: Mirror) -> None:
    mirror.sync()
    second = moved(mirror, b"2")
    mirror.sync()
    (mirror.root / ".fetchverify" / "state").unlink()
    third = moved(mirror, b"3")
    mirror.sync()
    assert {second, third} == commits_of(mirror)


def test_what_a_killed_run_took_from_readers_does_not_stay_for_ever(mirror: Mirror) -> None:
    mirror.sync()
    aside = mirror.root / "org/one/.incoming"
    (aside / f"gone-{'0' * 40}").mkdir(parents=True)
    (aside / f"gone-{'0' * 40}" / "w.bin").write_bytes(b"w")
    (aside / ".tmp-link").symlink_to("0" * 40)
    moved(mirror, b"2")
    mirror.sync()
    assert [] == [path.name for path in aside.iterdir()]


def test_the_book_is_not_written_once_a_repo(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand new repos would write it five thousand times, some gigabytes."""
    names = [f"n{number:02}" for number in range(12)]
    for name in names:
        mirror.hub.world.add(f"org/{name}", {"a": name.encode()})
    mirror.write("".join(f'[[repo]]\nid = "org/{name}"\n' for name in names))
    saved: list[int] = []
    save = MirrorBook.save

    def counting(self: MirrorBook, states: Any) -> None:
        saved.append(1)
        save(self, states)

    monkeypatch.setattr(MirrorBook, "save", counting)
    monkeypatch.setattr(sync, "_SAVE_EVERY_S", 3600.0)
    assert {Fate.CHANGED} == set(mirror.fates().values())
    assert 1 == len(saved)


# --- one run at a time ---------------------------------------------------------------------------------------


def run(mirror: Mirror, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fetchverify", "mirror", "sync", str(mirror.config)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
    )


def test_two_runs_do_not_meet_where_locks_exclude_nobody(mirror: Mirror) -> None:
    lying = {**preload("flock"), "FAKE_FLOCK": "always"}
    mirror.hub.fault(Trickle(rate=MiB // 4), path="model.safetensors")
    first = run(mirror, lying)
    while not mirror.hub.ledger.requests():
        assert first.poll() is None
        time.sleep(0.02)
    second = run(mirror, lying)
    assert 6 == second.wait(30)
    assert f"process {first.pid}" in second.communicate()[1]
    assert 0 == first.wait(60), first.communicate()
    first.communicate()
    assert mirror.source() == mirror.seen()


def test_a_killed_run_locks_nobody_out(mirror: Mirror) -> None:
    lying = {**preload("flock"), "FAKE_FLOCK": "always"}
    mirror.hub.fault(Delay(seconds=30))
    for _ in range(2):
        killed = run(mirror, lying)
        mirror.hub.ledger.clear()
        while not mirror.hub.ledger.requests():
            assert killed.poll() is None
            time.sleep(0.02)
        killed.kill()
        killed.communicate()
    mirror.hub.clear_faults()
    last = run(mirror, lying)
    assert 0 == last.wait(60), last.communicate()
    last.communicate()
    assert mirror.source() == mirror.seen()
    assert [] == list((mirror.root / ".fetchverify").glob("owner*"))


# --- hooks, windows, tokens ----------------------------------------------------------------------------------


def told(hooks: Hooks, summary: str) -> list[str]:
    said: list[events.Event] = []

    async def tell() -> None:
        await Heralds(hooks, said.append).ended(lambda: summary, failed=False)

    anyio.run(tell)
    return [event.message for event in said if isinstance(event, events.Note)]


def test_a_hook_that_reads_nothing_ends_no_run() -> None:
    assert [] == told(Hooks(success=("true",)), "x" * 4 * MiB)


def test_a_hook_that_says_much_is_quoted_from_its_end() -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' a; echo; echo the end; exit 3"
    (warning,) = told(Hooks(success=("sh", "-c", script)), "")
    assert "exit code 3" in warning
    assert warning.endswith("the end")
    assert len(warning) < 3000


def test_who_hears_that_a_run_began_hears_that_it_failed(mirror: Mirror, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    mirror.write(ONE, f'[hooks]\nfailure = ["sh", "-c", "cat > {heard}"]')
    with pytest.raises(UsageError):
        mirror.sync(repos=("org/other",))
    assert "org/other" in heard.read_text()


def test_a_change_is_told_though_what_follows_fails(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fetchverify.commands.mirror.places import FolderPlace
    from fetchverify.errors import DiskError

    def full(self: FolderPlace, states: Any, keep: int) -> None:
        raise DiskError("no space")

    heard = tmp_path / "heard"
    mirror.write(ONE, f'[hooks]\nchange = ["sh", "-c", "echo $FETCHVERIFY_COMMIT > {heard}"]')
    monkeypatch.setattr(FolderPlace, "prune", full)
    assert {"org/one": Fate.FAILED} == mirror.fates()
    assert commit_of(mirror) == heard.read_text().strip()


def test_a_window_closes_also_on_a_run_that_asked_for_long(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync._Sync, "_window_left_s", lambda self: 1.5)
    mirror.hub.fault(Delay(seconds=2.0), nth=1, route="api")
    assert {"org/one": Fate.POSTPONED} == mirror.fates()


def test_an_empty_token_file_is_no_token(mirror: Mirror) -> None:
    """Asking as nobody would show private repos as gone."""
    (mirror.folder / "token").write_text("\n")
    mirror.write(ONE, 'token_file = "token"')
    with pytest.raises(UsageError, match="empty"):
        mirror.sync()


# --- verifying -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["cache", "folders"])
def test_verify_sees_a_file_that_is_missing_and_sync_brings_it_back(mirror: Mirror, layout: str) -> None:
    mirror.layout = layout
    mirror.write(f'{ONE}\nexclude = ["*.md"]')
    mirror.hub.world.repo("org/one").commit({"README.md": b"# not chosen\n"})
    mirror.sync()
    held = mirror.seen()
    path = next(path for path in mirror.root.rglob("config.json") if ".fetchverify" not in path.parts)
    path.unlink()
    found = mirror.verify()
    assert (1, [(str(path), True)]) == (found.exit_code, [(one.path, one.missing) for one in found.bad])
    assert "damaged" == mirror.states()["org/one"]["status"]
    assert {"org/one": Fate.MENDED} == mirror.fates()
    assert held == mirror.seen()
    assert 0 == mirror.verify().exit_code


@pytest.mark.leaves_damage
def test_an_old_commit_that_cannot_be_mended_does_not_hold_up_the_newest(mirror: Mirror) -> None:
    mirror.sync()
    old = commit_of(mirror)
    mirror.hub.world.repo("org/one").force_push({"config.json": b"other"})
    mirror.sync()
    (mirror.root / "org/one" / old / "config.json").write_bytes(b'{"version": 7}\n')
    assert 1 == mirror.verify().exit_code
    assert Fate.FAILED not in mirror.fates().values()
    assert any(old[:8] in event.message for event in mirror.said if isinstance(event, events.Note))
    last = moved(mirror, b"3")
    assert {"org/one": Fate.CHANGED} == mirror.fates()
    assert last in commits_of(mirror)


def test_proofs_of_a_clock_that_was_ahead_count_for_nothing(mirror: Mirror) -> None:
    mirror.sync()
    right = mirror.now
    mirror.now += 4000 * DAY
    mirror.verify()
    mirror.now = right
    assert 0.0 == mirror.verify(sample=1e-6).oldest


def test_a_torn_book_of_proofs_is_an_empty_one(mirror: Mirror) -> None:
    mirror.sync()
    for text in ("[", "[]", '{"a": 1' + "0" * 400 + "}", '{"a": NaN, "b": true, "c": "x", "d": -1}'):
        (mirror.root / ".fetchverify" / "proofs").write_text(text)
        assert 0 == mirror.verify().exit_code


@pytest.mark.leaves_damage
def test_a_file_that_a_sync_removes_meanwhile_is_not_bad(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.write(f"{ONE}\nkeep = 1")
    mirror.sync()
    matches, pruned = Auditor.matches, threading.Event()

    async def slow(self: Auditor, path: Path, digest: Any, size: int) -> bool:
        if not pruned.is_set():
            pruned.set()
            shutil.rmtree(path.parent)
        return await matches(self, path, digest, size)

    monkeypatch.setattr(Auditor, "matches", slow)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert () == mirror.verify().bad
