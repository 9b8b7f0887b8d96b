"""What `get` promises beyond single faults: nothing twice, nothing outside, nothing unproved, tokens kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import huggingface_hub.constants
import pytest

from fetchverify.commands.get import DryRun, GetOptions, run
from fetchverify.core.manifest import Digest
from fetchverify.core.report import Report
from fetchverify.errors import AbsentError, DiskError, FetchverifyError, NetworkError
from fetchverify.events import Event, Progress, ignore
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from fetchverify.store.quarantine import Quarantine
from mock_server import (
    Delay,
    Flip,
    MiB,
    MockHub,
    RedirectTo,
    Replace,
    Seeded,
    Stall,
    World,
)
from mock_server.world import FileValue
from tests.mounts import mounted

pytestmark = pytest.mark.anyio

CONFIG = b'{"architectures": ["LlamaForCausalLM"]}\n'
BIG = Seeded(20 * MiB, seed="w")
FILES: dict[str, FileValue | None] = {"config.json": CONFIG, "w.bin": BIG, "sub/twin.json": CONFIG}


@pytest.fixture
def hub() -> Iterator[MockHub]:
    world = World()
    world.add("org/model", FILES)
    world.add("org/gated", {"w.bin": BIG}, gated=True, tokens=["hf_insider"])
    world.add("org/private", {"config.json": CONFIG}, private=True, tokens=["hf_insider"])
    with MockHub(world) as running:
        yield running


def options(hub: MockHub, tmp_path: Path, **more: object) -> GetOptions:
    given = {"repo": "org/model", "endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": "", "retries": 3}
    return GetOptions(**{**given, **more})  # type: ignore[arg-type]


async def get(hub: MockHub, tmp_path: Path, events: list[Event] | None = None, **more: object) -> Report:
    report = await run(options(hub, tmp_path, **more), ignore if events is None else events.append)
    assert isinstance(report, Report)
    return report


def kinds(report: Report) -> dict[str, str]:
    return {outcome.path: outcome.kind.value for outcome in report.outcomes}


def asked_for_bytes(hub: MockHub) -> list[str]:
    return [str(record.file) for record in hub.ledger.requests(method="GET") if record.kind in ("resolve", "cdn")]


# --- nothing is paid for twice ----------------------------------------------------------------------------------


async def test_what_another_revision_has_is_linked(hub: MockHub, tmp_path: Path) -> None:
    """A new commit that changes the README must not cost the weights again."""
    await get(hub, tmp_path)
    hub.world.repo("org/model").commit({"README.md": b"# new\n"})
    hub.ledger.clear()
    report = await get(hub, tmp_path)
    expected = {"README.md": "fetched", "config.json": "linked", "sub/twin.json": "linked", "w.bin": "linked"}
    assert expected == kinds(report)
    assert ["README.md"] == asked_for_bytes(hub)


async def test_a_folder_is_filled_from_the_cache(hub: MockHub, tmp_path: Path) -> None:
    """Copied or reflinked, never hard-linked: an edit in DIR must not rot the cache."""
    await get(hub, tmp_path)
    hub.ledger.clear()
    report = await get(hub, tmp_path, to=tmp_path / "here")
    assert {"config.json": "copied", "sub/twin.json": "copied", "w.bin": "copied"} == kinds(report)
    assert [] == asked_for_bytes(hub)
    (tmp_path / "here" / "w.bin").write_bytes(b"edited")
    assert {"kept"} == set(kinds(await get(hub, tmp_path)).values())


async def test_one_digest_is_fetched_once(hub: MockHub, tmp_path: Path) -> None:
    report = await get(hub, tmp_path)
    assert ["fetched", "linked"] == sorted([kinds(report)["config.json"], kinds(report)["sub/twin.json"]])
    assert len(CONFIG) + BIG.size == report.bytes_fetched


async def test_a_second_run_makes_one_request_and_reads_no_blob(hub: MockHub, tmp_path: Path) -> None:
    first = await get(hub, tmp_path)
    blob = (Path(first.target) / "w.bin").resolve()
    os.utime(blob, ns=(1, blob.stat().st_mtime_ns))  # the access time would tell of a read
    hub.ledger.clear()
    second = await get(hub, tmp_path)
    assert (False, True, 1) == (second.changed, second.published, second.requests)
    assert 1 == len(hub.ledger.requests())
    assert 1 == blob.stat().st_atime_ns


async def test_a_rotten_blob_is_found_when_its_time_changed_and_fetched_again(hub: MockHub, tmp_path: Path) -> None:
    first = await get(hub, tmp_path)
    blob = (Path(first.target) / "w.bin").resolve()
    with blob.open("r+b") as file:
        file.seek(MiB)
        file.write(b"rot")
    report = await get(hub, tmp_path)
    assert ("fetched", 1) == (kinds(report)["w.bin"], report.quarantined)
    assert BIG.read(0, BIG.size) == (Path(report.target) / "w.bin").read_bytes()


async def test_a_truncated_blob_is_replaced(hub: MockHub, tmp_path: Path) -> None:
    """The hub's client reports a truncated blob as downloaded (#4768)."""
    first = await get(hub, tmp_path)
    blob = (Path(first.target) / "w.bin").resolve()
    os.truncate(blob, 1000)
    report = await get(hub, tmp_path)
    assert ("fetched", 0) == (kinds(report)["w.bin"], report.exit_code)
    assert BIG.read(0, BIG.size) == (Path(report.target) / "w.bin").read_bytes()


# --- bad bytes --------------------------------------------------------------------------------------------------


async def test_one_bad_copy_is_kept_with_its_note(hub: MockHub, tmp_path: Path) -> None:
    """What came, from where and when is what a bug report to the Hub needs; a second copy would only fill the disk."""
    hub.fault(Flip(offset=9 * MiB), path="w.bin")
    report = await get(hub, tmp_path)
    assert (1, "corrupt", False) == (report.exit_code, kinds(report)["w.bin"], report.published)
    area = HubCache.for_repo(Disk(), tmp_path / "cache", "model", "org/model").area
    copies = [path for path in (area / "quarantine").rglob("*") if path.is_file() and path.stat().st_size == BIG.size]
    assert 1 == len(copies)
    bad = bytearray(BIG.read(0, BIG.size))
    bad[9 * MiB] ^= 1
    assert bytes(bad) == copies[0].read_bytes()
    notes = Quarantine(Disk(), area).notes(hub_digest(hub, "w.bin"))
    assert ("w.bin", "org/model", 2) == (notes[0]["path"], notes[0]["repo_id"], len(notes))
    assert not list((area / "partial").iterdir())


def hub_digest(hub: MockHub, path: str) -> Digest:
    return Digest(algo="sha256", hex=hub.world.repo("org/model").file(path).etag())


# --- tokens -----------------------------------------------------------------------------------------------------


async def test_a_gated_repo_needs_its_token_and_the_cdn_never_sees_it(hub: MockHub, tmp_path: Path) -> None:
    report = await get(hub, tmp_path, repo="org/gated")
    assert (3, {"w.bin": "denied"}) == (report.exit_code, kinds(report))
    assert f"{hub.endpoint}/org/gated" in (report.outcomes[0].hint or ""), "where the licence can be accepted"
    report = await get(hub, tmp_path, repo="org/gated", token="hf_insider")
    assert (0, {"w.bin": "fetched"}) == (report.exit_code, kinds(report))
    sent = {record.origin for record in hub.ledger.requests() if record.authorization}
    assert {"hub"} == sent


async def test_a_private_repo_looks_absent_without_its_token(hub: MockHub, tmp_path: Path) -> None:
    with pytest.raises(AbsentError) as caught:
        await get(hub, tmp_path, repo="org/private")
    assert "HF_TOKEN" in (caught.value.hint or "")
    assert 0 == (await get(hub, tmp_path, repo="org/private", token="hf_insider")).exit_code


async def test_a_redirect_to_another_host_does_not_see_the_token(hub: MockHub, tmp_path: Path) -> None:
    hub.fault(RedirectTo(to="other"), route="resolve")
    report = await get(hub, tmp_path, token="hf_demo")
    assert 0 == report.exit_code
    assert [] == [record for record in hub.ledger.requests(origin="other") if record.authorization]
    assert hub.ledger.requests(origin="other")


# --- hostile metadata -------------------------------------------------------------------------------------------

SHA1 = "a" * 40
HOSTILE = {
    "a parent": "../evil",
    "a parent inside": "a/../../evil",
    "absolute": "/tmp/evil",
    "a drive": "C:/evil",
    "a NUL": "a\0b",
    "a control character": "a\x1b[2Jb",
    "a backslash": "..\\evil",
    "ours": ".fetchverify/proofs",
    "git's": ".git/hooks/post-checkout",
    "empty": "",
    "an empty part": "a//b",
    "too long": "x" * 300,
    "a lone surrogate": "\ud800",
}


def entry(path: object, size: object = 3, **more: object) -> dict[str, object]:
    return {"type": "file", "path": path, "size": size, "oid": SHA1, **more}


async def refused(hub: MockHub, tmp_path: Path, page: object) -> FetchverifyError:
    body = page if isinstance(page, str) else json.dumps(page)
    hub.fault(Replace(body=body), route="tree")
    before = set(tmp_path.parent.rglob("*"))
    with anyio.fail_after(20):
        with pytest.raises(FetchverifyError) as caught:
            await get(hub, tmp_path, to=tmp_path / "deep" / "here")
    assert before == set(tmp_path.parent.rglob("*")), "something was written"
    assert caught.value.exit_code in (1, 3)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("path", HOSTILE.values(), ids=[name.replace(" ", "-") for name in HOSTILE])
async def test_a_hostile_path_stops_the_run_before_anything_is_written(path: str, hub: MockHub, tmp_path: Path) -> None:
    await refused(hub, tmp_path, [entry(path)])


@pytest.mark.parametrize(
    "page",
    [
        [entry("a", size=-1)],
        [entry("a", size=1 << 62)],
        [entry("a", size=1e300)],
        [entry("a", size=True)],
        [entry("a", size=None)],
        [entry("a"), entry("a")],
        [entry("a"), entry("a/b")],
        [entry("a", oid="not hex")],
        [entry("a", lfs={"oid": "b" * 64, "size": 4, "pointerSize": 100})],
        [entry("a", lfs={"oid": "../../evil", "size": 3})],
        [entry(["a"])],
        {"error": "no list"},
        "this is no JSON",
        "[" * 100_000,
        '[{"type": "file"',
    ],
    ids=lambda page: str(page)[:40],
)
async def test_a_listing_that_makes_no_sense_is_refused(page: object, hub: MockHub, tmp_path: Path) -> None:
    await refused(hub, tmp_path, page)


@pytest.mark.parametrize("path", ["name.", "name ", "sub./x", "nul", "COM1.txt", "aux.c/x"])
async def test_a_name_that_windows_bends_is_refused_alone(path: str, hub: MockHub, tmp_path: Path) -> None:
    """The other files are published; the ref stays, for the snapshot is not whole."""
    hub.world.repo("org/model").commit({path: b"x"})
    report = await get(hub, tmp_path)
    assert ("refused", 1, False) == (kinds(report)[path], report.exit_code, report.published)
    assert "fetched" == kinds(report)["w.bin"]


async def test_a_planted_link_does_not_lead_us_out(hub: MockHub, tmp_path: Path) -> None:
    """Whoever can write to DIR must not make us write elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    (here / "sub").symlink_to(outside)
    (here / "w.bin").symlink_to(outside / "w.bin")
    report = await get(hub, tmp_path, to=here)
    assert ("refused", 1) == (kinds(report)["sub/twin.json"], report.exit_code)
    assert [] == list(outside.iterdir())


@pytest.mark.root
async def test_paths_that_differ_by_case_do_not_overwrite_each_other(hub: MockHub, tmp_path: Path) -> None:
    """On a disk that ignores case the second file would silently become the first."""
    hub.world.repo("org/model").commit({"README.md": b"one\n", "readme.md": b"two\n"})
    with mounted(tmp_path, "exfat", "64M") as disk:
        report = await get(hub, tmp_path, to=disk / "here")
        assert {"README.md": "refused", "readme.md": "refused"}.items() <= kinds(report).items()
        assert (1, "fetched") == (report.exit_code, kinds(report)["w.bin"])
    assert 0 == (await get(hub, tmp_path)).exit_code


# --- disks ------------------------------------------------------------------------------------------------------


@pytest.mark.root
async def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(hub: MockHub, tmp_path: Path) -> None:
    with mounted(tmp_path, "tmpfs", "16M") as disk:
        with pytest.raises(DiskError) as caught:
            await get(hub, tmp_path, to=disk / "here")
        assert "missing" in caught.value.message
        assert [] == asked_for_bytes(hub)


@pytest.mark.root
async def test_a_disk_that_fills_up_keeps_what_landed(hub: MockHub, tmp_path: Path) -> None:
    """Somebody else writes meanwhile: exit 5, and after room is made nothing is fetched twice."""
    with mounted(tmp_path, "tmpfs", "40M") as disk:
        hog = disk / "hog"
        here = disk / "here"

        def fill(event: Event) -> None:
            if type(event).__name__ == "Planned":
                with hog.open("wb") as file:
                    file.write(bytes(30 * MiB))

        with pytest.raises(DiskError):
            await run(options(hub, tmp_path, to=here), fill)
        hog.unlink()
        report = await get(hub, tmp_path, to=here)
        assert 0 == report.exit_code
        assert BIG.read(0, BIG.size) == (here / "w.bin").read_bytes()


@pytest.mark.root
async def test_memory_stays_flat_on_a_file_of_500_gb(tmp_path: Path) -> None:
    """Planned whole, fetched for its first GB, interrupted: below 150 MiB in all."""
    world = World()
    world.add("org/huge", {"huge.bin": Seeded(500 * 10**9, seed="huge")})
    with MockHub(world) as hub, mounted(tmp_path, "ext4", "600G") as disk:
        command = [sys.executable, "-m", "fetchverify", "get", "org/huge", "--endpoint", hub.endpoint, "--to"]
        process = subprocess.Popen(
            [*command, str(disk / "here")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "HF_TOKEN": ""},
        )
        peak = 0
        until = time.monotonic() + 120
        while hub.ledger.bytes_sent("huge.bin") < 1 << 30:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert 143 == process.returncode, err
        assert peak < 150, f"{peak} MiB"


def test_memory_stays_small_where_small_files_and_large_ones_meet(tmp_path: Path) -> None:
    """The buffers of large files and the contents of small ones share 150 MiB with all the rest."""
    world = World()
    files = {f"s{number}.bin": Seeded(MiB, seed=f"s{number}") for number in range(150)}
    large = {f"w{number}.bin": Seeded(192 * MiB, seed=f"w{number}") for number in range(3)}
    world.add("org/mixed", {**files, **large})
    with MockHub(world) as hub:
        hub.fault(Delay(seconds=0.05))
        command = [sys.executable, "-m", "fetchverify", "get", "org/mixed", "-q", "--endpoint", hub.endpoint]
        process = subprocess.Popen(
            [*command, "--cache-dir", str(tmp_path)],
            env={**os.environ, "HF_TOKEN": ""},
            stdout=subprocess.DEVNULL,
        )
        peak = 0  # not `ru_maxrss`: a child begins with what its parent had
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = peak if found is None else int(found[1]) // 1024
            time.sleep(0.02)
    assert 0 == process.returncode
    assert 50 < peak < 150


# --- the rest ---------------------------------------------------------------------------------------------------


async def test_a_silent_server_is_left_and_asked_again(
    hub: MockHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stuck at 99 %`: a connection that falls silent must not hold the file."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub.fault(Stall(after=3 * MiB, seconds=60), path="w.bin", nth=2)
    with anyio.fail_after(20):
        report = await get(hub, tmp_path)
    assert (0, 1) == (report.exit_code, report.retries)


async def test_a_rate_limit_holds_over_all_connections(hub: MockHub, tmp_path: Path) -> None:
    began = time.monotonic()
    await get(hub, tmp_path, limit_rate=4 * MiB)
    # A second's worth may come at once. Two connections with a limit each would be done after 2.5 s at the most.
    assert time.monotonic() - began > 20 / 4 - 1.2


async def test_offline_uses_what_is_there_and_asks_nobody(hub: MockHub, tmp_path: Path) -> None:
    with pytest.raises(AbsentError):
        await get(hub, tmp_path, offline=True)
    await get(hub, tmp_path, include=("*.json",))
    hub.ledger.clear()
    part = await get(hub, tmp_path, offline=True, include=("*.json",))
    whole = await get(hub, tmp_path, offline=True)
    assert (0, 3) == (part.exit_code, whole.exit_code)
    assert ("kept", "absent") == (kinds(whole)["config.json"], kinds(whole)["w.bin"])
    assert [] == hub.ledger.requests()


async def test_a_dry_run_writes_and_fetches_nothing(hub: MockHub, tmp_path: Path) -> None:
    made = await run(options(hub, tmp_path, dry_run=True), ignore)
    assert isinstance(made, DryRun)
    assert {"config.json": "fetch", "sub/twin.json": "fetch", "w.bin": "fetch"} == {p: a for p, _, a in made.files}
    assert BIG.size + len(CONFIG) == made.bytes_to_fetch
    assert ([], False) == (asked_for_bytes(hub), (tmp_path / "cache").exists())


async def test_progress_ends_at_the_files_size(hub: MockHub, tmp_path: Path) -> None:
    events: list[Event] = []
    await get(hub, tmp_path, events)
    progress = [event for event in events if isinstance(event, Progress)]
    assert all(event.verified <= event.received <= BIG.size for event in progress)


async def test_a_mirror_without_a_tree_is_read_by_its_headers(hub: MockHub, tmp_path: Path) -> None:
    """Where neither tree nor digests are listed, the headers of the files themselves are the promise."""
    hub.configure(tree=False)
    report = await get(hub, tmp_path)
    assert 0 == report.exit_code
    assert BIG.read(0, BIG.size) == (Path(report.target) / "w.bin").read_bytes()


async def test_nobody_there_is_a_network_error(tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as caught:
        await run(
            GetOptions(repo="org/model", endpoint="http://127.0.0.1:9", cache_dir=tmp_path, token="", retries=2),
            ignore,
        )
    assert 4 == caught.value.exit_code
