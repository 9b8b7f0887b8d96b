"""`mirror sync`: what moved comes, whole; what did not costs one question; what fails harms nobody else."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from fetchverify import events
from fetchverify.commands.mirror import sync
from fetchverify.commands.mirror.status import look
from fetchverify.core.mirrored import Fate
from fetchverify.errors import LockedError, UsageError
from fetchverify.sinks.mirrored import prometheus, status_lines, sync_lines
from mock_server import KiB, MiB, MockHub, Quota, Seeded, Status, Trickle, World
from mock_server.world import FileValue
from tests.synced import DAY, HOUR, NOON, Mirror

FILES: dict[str, FileValue | None] = {
    "config.json": b'{"version": 1}\n',
    "sub dir/vocab.txt": b"a\nb\n",
    "model.safetensors": Seeded(3 * MiB, seed="m1"),
}


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    for name in ("one", "two", "three"):
        world.add(f"org/{name}", FILES)
    with MockHub(world) as running:
        yield running


@pytest.fixture(params=["cache", "folders"])
def mirror(request: pytest.FixtureRequest, hub: MockHub, tmp_path: Path) -> Mirror:
    found = Mirror(hub, tmp_path / "m")
    found.layout = request.param
    found.write('[[repo]]\nid = "org/one"')
    return found


def moved(mirror: Mirror, repo_id: str = "org/one", **files: FileValue | None) -> str:
    return mirror.hub.world.repo(repo_id).commit({name.replace("__", "."): value for name, value in files.items()})


def test_what_is_new_comes_and_what_is_fresh_costs_one_conditional_request(mirror: Mirror) -> None:
    report = mirror.sync()
    assert [Fate.CHANGED] == [one.fate for one in report.done]
    assert mirror.source() == mirror.seen()
    mirror.hub.ledger.clear()
    again = mirror.sync()
    assert [Fate.FRESH] == [one.fate for one in again.done]
    assert ([], 0) == (sync_lines(again), again.exit_code)
    (asked,) = mirror.hub.ledger.requests()
    assert (304, "/api/models/org/one/revision/main") == (asked.status, asked.path)


def test_a_new_commit_costs_what_changed(mirror: Mirror) -> None:
    mirror.sync()
    moved(mirror, config__json=b"{}", extra__bin=Seeded(MiB, seed="x"))
    mirror.hub.ledger.clear()
    report = mirror.sync()
    assert mirror.source() == mirror.seen()
    (done,) = report.done
    assert (Fate.CHANGED, MiB + 2) == (done.fate, done.fetched)
    sent = sum(record.bytes_sent for record in mirror.hub.ledger.requests() if record.kind in ("cdn", "resolve"))
    assert MiB + 2 <= sent <= MiB + 4 * KiB
    assert any("changed" in line for line in sync_lines(report))


def test_as_many_commits_stay_as_were_asked_for(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/one"\nkeep = 2')
    commits = [mirror.hub.world.repo("org/one").head().id]
    mirror.sync()
    for number in range(3):
        mirror.now += HOUR
        commits.append(moved(mirror, config__json=b"%d" % number))
        mirror.sync()
    (state,) = mirror.states().values()
    assert tuple(commits[-2:]) == state["commits"]
    base = mirror.root / ("models--org--one/snapshots" if mirror.layout == "cache" else "org/one")
    assert set(commits[-2:]) == {path.name for path in base.iterdir() if len(path.name) == 40}


def test_unchanged_files_are_shared_between_commits(mirror: Mirror) -> None:
    mirror.sync()
    before = mirror.hub.world.repo("org/one").head().id
    after = moved(mirror, config__json=b"{}")
    mirror.sync()
    base = mirror.root / ("models--org--one/snapshots" if mirror.layout == "cache" else "org/one")
    assert (base / before / "model.safetensors").samefile(base / after / "model.safetensors")
    assert not (base / before / "config.json").samefile(base / after / "config.json")


def test_a_file_that_a_commit_removed_is_not_in_it(mirror: Mirror) -> None:
    mirror.sync()
    mirror.hub.world.repo("org/one").commit({"sub dir/vocab.txt": None})
    mirror.sync()
    assert {"config.json", "model.safetensors"} == set(mirror.seen())


def test_readers_see_the_old_commit_until_the_new_one_is_whole(mirror: Mirror) -> None:
    mirror.sync()
    before = mirror.seen()
    moved(mirror, config__json=b"{}", model__safetensors=Seeded(2 * MiB, seed="m2"))
    mirror.hub.fault(Status(code=500), path="model.safetensors")
    report = mirror.sync()
    assert (Fate.FAILED, 1) == (report.done[0].fate, report.exit_code)
    assert before == mirror.seen()
    mirror.hub.clear_faults()
    mirror.hub.ledger.clear()
    assert {"org/one": Fate.CHANGED} == mirror.fates()
    assert mirror.source() == mirror.seen()
    assert not [record for record in mirror.hub.ledger.requests() if record.file == "config.json"]  # it was there


def test_one_that_fails_never_stops_the_others(mirror: Mirror) -> None:
    mirror.write("".join(f'[[repo]]\nid = "org/{name}"\n' for name in ("absent", "one", "two")))
    mirror.hub.fault(Status(code=403, error_code="GatedRepo"), path="model.safetensors", repo="org/one")
    report = mirror.sync()
    fates = {one.ref.repo_id: one.fate for one in report.done}
    assert {"org/absent": Fate.FAILED, "org/one": Fate.FAILED, "org/two": Fate.CHANGED} == fates
    assert 1 == report.exit_code
    assert mirror.source("org/two") == mirror.seen("org/two")
    said = "\n".join(sync_lines(report))
    assert "org/absent" in said
    assert "gated" in said


def test_after_five_failures_it_is_tried_less_often(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/absent"')
    fates = []
    for _ in range(8):
        fates.append(mirror.fates()["org/absent"])
        mirror.now += HOUR * 0.9
    rest, tried = Fate.RESTING, Fate.FAILED
    assert [tried] * 5 + [rest, tried, rest] == fates
    report = mirror.sync()
    assert ([], 1) == (sync_lines(report), report.exit_code)  # cron heard of it five times
    mirror.hub.world.add("org/absent", FILES)
    assert {"org/absent": Fate.CHANGED} == mirror.fates(now=True)


def test_what_is_gone_upstream_is_kept_and_told_once(mirror: Mirror) -> None:
    mirror.sync()
    held = mirror.seen()
    mirror.hub.world.remove("org/one")
    report = mirror.sync()
    assert ([Fate.GONE], 0) == ([one.fate for one in report.done], report.exit_code)
    assert "kept" in sync_lines(report)[0]
    mirror.now += 30 * DAY
    assert [] == sync_lines(mirror.sync())
    assert held == mirror.seen()
    assert "gone" == mirror.states()["org/one"]["status"]


def test_only_purge_removes_what_is_gone_and_not_on_the_first_word(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/one"\n[[repo]]\nid = "org/two"', "purge = true")
    mirror.sync()
    mirror.hub.world.remove("org/one")
    assert Fate.GONE is mirror.fates()["org/one"]
    mirror.now += DAY - 60
    assert Fate.GONE is mirror.fates()["org/one"]
    assert mirror.seen()
    mirror.now += 120
    assert {"org/one": Fate.PURGED, "org/two": Fate.FRESH} == mirror.fates()
    assert not (mirror.root / ("models--org--one" if mirror.layout == "cache" else "org/one")).exists()
    assert mirror.source("org/two") == mirror.seen("org/two")


def test_denied_is_not_gone(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/one"', "purge = true")
    mirror.sync()
    held = mirror.seen()
    mirror.hub.fault(Status(code=401))
    for _ in range(7):
        mirror.now += DAY
        assert mirror.fates()["org/one"] in (Fate.FAILED, Fate.RESTING)
    assert held == mirror.seen()


def test_a_renamed_repo_goes_on_under_the_name_that_was_asked_for(mirror: Mirror) -> None:
    mirror.sync()
    mirror.hub.world.rename("org/one", "org/uno")
    report = mirror.sync()
    assert "org/uno" in sync_lines(report)[0]
    assert [] == sync_lines(mirror.sync())
    assert "org/uno" == mirror.states()["org/one"]["renamed_to"]


def test_a_force_push_is_one_more_commit(mirror: Mirror) -> None:
    mirror.sync()
    mirror.hub.world.repo("org/one").force_push({"config.json": b"other"})
    assert {"org/one": Fate.CHANGED} == mirror.fates()
    assert {"config.json": b"other"} == mirror.seen()


def test_a_repo_that_turned_gated_is_kept(mirror: Mirror) -> None:
    mirror.sync()
    held = mirror.seen()
    moved(mirror, config__json=b"{}")
    mirror.hub.world.repo("org/one").gated = True
    report = mirror.sync()
    assert (Fate.FAILED, held) == (report.done[0].fate, mirror.seen())
    assert "licence" in sync_lines(report)[0]


def test_several_revisions_and_kinds(mirror: Mirror) -> None:
    mirror.hub.world.add("org/data", {"a.txt": b"a"}, kind="dataset")
    mirror.hub.world.repo("org/one").commit({"config.json": b"dev"}, branch="feature/x")
    mirror.write(
        '[[repo]]\nid = "org/one"\nrevisions = ["main", "feature/x"]\n[[repo]]\nid = "org/data"\ntype = "dataset"'
    )
    report = mirror.sync()
    assert [Fate.CHANGED] * 3 == [one.fate for one in report.done]
    assert mirror.source() == mirror.seen()
    if mirror.layout == "folders":
        assert b"dev" == (mirror.root / "org/one/feature%2Fx/config.json").read_bytes()
        assert b"a" == (mirror.root / "datasets/org/data/main/a.txt").read_bytes()
    else:
        assert b"dev" == mirror.seen(revision="feature/x")["config.json"]


def test_patterns_choose_and_a_changed_choice_is_followed(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/one"\ninclude = ["*.json"]')
    mirror.sync()
    assert {"config.json"} == set(mirror.seen())
    mirror.write('[[repo]]\nid = "org/one"')
    assert {"org/one": Fate.CHANGED} == mirror.fates()
    assert mirror.source() == mirror.seen()


def test_an_account_costs_a_page_and_its_new_repos_come(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/*"')
    assert {"org/one", "org/two", "org/three"} == set(mirror.fates())
    mirror.hub.ledger.clear()
    assert {Fate.FRESH} == set(mirror.fates().values())
    assert ["/api/models"] == [record.path for record in mirror.hub.ledger.requests()]
    mirror.hub.world.add("org/four", FILES)
    mirror.hub.world.remove("org/two")
    fates = mirror.fates()
    assert (Fate.CHANGED, Fate.GONE) == (fates["org/four"], fates["org/two"])
    assert mirror.seen("org/two")


def test_an_endpoint_that_is_down_is_no_fault_of_the_repos(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_RETRIES", 1)
    for number in range(30):
        mirror.hub.world.add(f"org/n{number}", {"a": b"%d" % number})
    mirror.write("".join(f'[[repo]]\nid = "org/n{number}"\n' for number in range(30)))
    mirror.sync()
    mirror.hub.fault(Status(code=503))
    mirror.hub.ledger.clear()
    report = mirror.sync()
    assert len(mirror.hub.ledger.requests()) < 30
    assert 1 == report.exit_code
    assert 0 < report.count([Fate.UNREACHED]) <= 30
    assert len(sync_lines(report)) < 8
    for _ in range(10):
        mirror.sync()
    mirror.hub.clear_faults()
    assert mirror.fates()["org/n29"] is Fate.FRESH


def test_a_quota_is_waited_for(mirror: Mirror) -> None:
    for number in range(30):
        mirror.hub.world.add(f"org/n{number}", {"a": b"%d" % number})
    mirror.write("".join(f'[[repo]]\nid = "org/n{number}"\n' for number in range(30)))
    with MockHub(mirror.hub.world, quotas={"api": Quota(limit=20, window_s=1.5)}) as tight:
        mirror.hub = tight
        mirror.write("".join(f'[[repo]]\nid = "org/n{number}"\n' for number in range(30)))
        assert {Fate.CHANGED} == set(mirror.fates().values())
        assert {Fate.FRESH} == set(mirror.fates().values())
        limited = [record for record in tight.ledger.requests() if record.status == 429]
        assert 0 < len(limited) < 60


def test_a_second_run_says_who_is_at_work(mirror: Mirror) -> None:
    mirror.sync()
    path = next(mirror.root.rglob("state")).with_name("lock")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError) as caught:
            mirror.sync()
        assert f"process {os.getpid()}" in caught.value.message or str(os.getpid()) in caught.value.message
        assert 6 == caught.value.exit_code
        threading.Timer(0.5, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        assert {"org/one": Fate.FRESH} == mirror.fates(wait=True)


def test_outside_the_window_nobody_is_asked(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.write('[[repo]]\nid = "org/one"', 'window = "22:00-23:00"')
    monkeypatch.setattr("time.localtime", time.gmtime)
    report = mirror.sync()
    assert (0, [], []) == (report.exit_code, sync_lines(report), mirror.hub.ledger.requests())
    assert {"org/one": Fate.CHANGED} == mirror.fates(now=True)


def test_a_window_that_closes_ends_the_run_and_keeps_what_landed(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.sync()
    moved(mirror, big__bin=Seeded(64 * MiB, seed="big"))
    monkeypatch.setattr(sync._Sync, "_window_left_s", lambda self: 2.0)
    mirror.hub.fault(Trickle(rate=8 * MiB), path="big.bin")
    assert {"org/one": Fate.POSTPONED} == mirror.fates()
    monkeypatch.undo()
    mirror.hub.clear_faults()
    mirror.hub.ledger.clear()
    assert {"org/one": Fate.CHANGED} == mirror.fates()
    assert mirror.source() == mirror.seen()
    assert sum(record.bytes_sent for record in mirror.hub.ledger.requests() if record.kind == "cdn") <= 56 * MiB


def test_a_dry_run_asks_and_changes_nothing(mirror: Mirror) -> None:
    report = mirror.sync(dry_run=True)
    assert [Fate.DUE] == [one.fate for one in report.done]
    assert {} == mirror.states()
    assert not [record for record in mirror.hub.ledger.requests() if record.kind in ("cdn", "resolve")]


def test_one_repo_alone(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/one"\n[[repo]]\nid = "org/two"')
    assert {"org/two": Fate.CHANGED} == mirror.fates(repos=("org/two",))
    with pytest.raises(UsageError):
        mirror.sync(repos=("org/other",))


class _Ears(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, body, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_hooks_and_pings_hear_of_each_run(mirror: Mirror, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ears)
    server.heard = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        script = tmp_path / "hook"
        script.write_text(
            '#!/bin/sh\necho "$1 $FETCHVERIFY_REPO $FETCHVERIFY_PATH" >> "$0.log"\ncat > "$0.$1"\n[ $1 != failure ]\n'
        )
        script.chmod(0o755)
        commands = "".join(f'{name} = ["{script}", "{name}"]\n' for name in ("success", "failure", "change"))
        ping = f'ping = "http://127.0.0.1:{server.server_port}/uuid"\n'
        mirror.write('[[repo]]\nid = "org/one"', f"[hooks]\n{commands}{ping}")
        (done,) = mirror.sync().done
        assert [f"change org/one {done.path}", "success  "] == (tmp_path / "hook.log").read_text().splitlines()
        assert "changed" == json.loads((tmp_path / "hook.success").read_text())["repos"][0]["fate"]
        mirror.hub.fault(Status(code=403))
        mirror.sync()
        assert "failure  " == (tmp_path / "hook.log").read_text().splitlines()[-1]
        heard = server.heard  # type: ignore[attr-defined]
        assert ["/uuid/start", "/uuid", "/uuid/start", "/uuid/fail"] == [path for path, _, _ in heard]
        assert {None} == {token for _, _, token in heard}
        warnings = [event.message for event in mirror.said if isinstance(event, events.Note)]
        assert any("hook `failure` ended with exit code 1" in message for message in warnings)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.leaves_damage
def test_bad_bytes_are_found_by_verify_and_mended_by_sync(mirror: Mirror) -> None:
    mirror.sync()
    moved(mirror, config__json=b"{}")
    mirror.sync()
    assert 4 == mirror.verify().files  # two of them are of both commits
    name = next(path for path in mirror.root.rglob("*") if path.is_file() and path.stat().st_size == 3 * MiB)
    with name.open("r+b") as file:
        file.seek(MiB)
        file.write(b"rot")
    found = mirror.verify()
    assert (1, 1) == (len(found.bad), found.exit_code)
    assert "damaged" == mirror.states()["org/one"]["status"]
    mirror.hub.ledger.clear()
    report = mirror.sync()
    assert Fate.MENDED is report.done[0].fate
    assert mirror.source() == mirror.seen()
    assert () == mirror.verify().bad
    assert "fresh" == mirror.states()["org/one"]["status"]
    sent = sum(record.bytes_sent for record in mirror.hub.ledger.requests() if record.kind == "cdn")
    assert sent <= 3 * MiB + 64 * KiB  # once, though two commits hold it


def test_shares_prove_all_in_turn(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/*"')
    mirror.sync()
    counts = []
    for _ in range(4):
        mirror.now += DAY
        report = mirror.verify(sample=0.3)
        counts.append(report.oldest)
    assert [0.0, 0.0, 0.0] == counts[:3]
    assert counts[3] >= NOON + DAY
    assert 1 <= mirror.verify(budget_s=1e-9, sample=1.0).all_files


def test_the_book_may_be_lost_or_torn(mirror: Mirror) -> None:
    mirror.sync()
    state = next(mirror.root.rglob("state"))
    for damage in (b"", b"{", b'{"version": 1}\n{"type": "model", "repo_id": "../x", "revision": "main"}\n[1]\nnull\n'):
        state.write_bytes(damage)
        mirror.hub.ledger.clear()
        assert {"org/one": Fate.CHANGED} == mirror.fates()
        assert 0 == sum(record.bytes_sent for record in mirror.hub.ledger.requests() if record.kind == "cdn")
        assert {"org/one": Fate.FRESH} == mirror.fates()


def test_what_a_reader_deleted_comes_back(mirror: Mirror) -> None:
    import shutil

    mirror.sync()
    shutil.rmtree(mirror.root / ("models--org--one" if mirror.layout == "cache" else "org/one"))
    assert {"org/one": Fate.CHANGED} == mirror.fates()
    assert mirror.source() == mirror.seen()


def test_a_cache_is_one_to_the_hubs_own_tools(hub: MockHub, tmp_path: Path) -> None:
    mirror = Mirror(hub, tmp_path / "m")
    mirror.sync()
    path = snapshot_download("org/one", cache_dir=mirror.root, local_files_only=True)
    assert b'{"version": 1}\n' == Path(path, "config.json").read_bytes()
    found = scan_cache_dir(mirror.root)
    assert ([], ["org/one"]) == (found.warnings, [repo.repo_id for repo in found.repos])


def test_status_tells_and_its_metrics_are_prometheus(mirror: Mirror) -> None:
    mirror.write('[[repo]]\nid = "org/one"\n[[repo]]\nid = "org/absent"')
    mirror.sync()
    mirror.now += 90
    rows = [row.as_json() for row in look(mirror.config, lambda: mirror.now).rows]
    table = "\n".join(status_lines(rows))
    assert "failing" in table
    assert "1m30s ago" in table
    text = prometheus(rows)
    labels = 'type="model",repo_id="org/one",revision="main"'
    assert f"fetchverify_mirror_lag_seconds{{{labels}}} 90.0\n" in text
    assert f"fetchverify_mirror_bytes{{{labels}}} {3 * MiB + 19}\n" in text
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0


def test_tokens_come_from_a_file_or_a_variable(hub: MockHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.world.add("org/gated", FILES, gated=True, tokens=["hf_secret"])
    mirror = Mirror(hub, tmp_path / "m")
    (mirror.folder / "token").write_text("hf_secret\n")
    mirror.write('[[repo]]\nid = "org/gated"', 'token_file = "token"')
    assert {"org/gated": Fate.CHANGED} == mirror.fates()
    monkeypatch.setenv("MIRROR_TOKEN", "hf_secret")
    mirror.write('[[repo]]\nid = "org/gated"', 'token_env = "MIRROR_TOKEN"')
    hub.world.repo("org/gated").commit({"a": b"b"})
    assert {"org/gated": Fate.CHANGED} == mirror.fates()
    monkeypatch.delenv("MIRROR_TOKEN")
    with pytest.raises(UsageError, match="MIRROR_TOKEN"):
        mirror.sync()
    everything = b"".join(path.read_bytes() for path in mirror.root.rglob("*") if path.is_file())
    assert b"hf_secret" not in everything
