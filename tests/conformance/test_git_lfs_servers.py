"""Where `fetchverify get .` gets contents from, to whom it shows what, and what it does when that fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from mock_server import Flip, MiB, MockHub, RedirectTo, Status, Trickle
from tests.conformance.clones import AWKWARD, CONTENT, SMALL, Shell, is_filled, outcomes, stored

# --- where from ----------------------------------------------------------------------------------------------


def test_contents_of_another_clone_are_taken_and_proved(
    hub: MockHub, shell: Shell, clone: Path, tmp_path: Path
) -> None:
    other = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "other", content=True)
    store = next(path for path in stored(other) if path.stat().st_size == SMALL.size)
    bad = bytearray(store.read_bytes())
    bad[5] ^= 1
    store.write_bytes(bad)
    hub.ledger.clear()
    told = shell.report("get", ".", "--reference", str(other), cwd=clone)
    assert is_filled(clone)
    assert "copied" == outcomes(told)["large.safetensors"]
    assert SMALL.size == sum(record.bytes_sent for record in hub.ledger.requests(origin="cdn"))


def test_contents_of_the_hubs_cache_are_taken(hub: MockHub, shell: Shell, clone: Path) -> None:
    shell.ours("get", "org/m", "large.safetensors", cwd=clone)
    hub.ledger.clear()
    told = shell.report("get", ".", cwd=clone)
    assert "copied" == outcomes(told)["large.safetensors"]
    assert [] == hub.ledger.requests(path="large.safetensors", origin="cdn")


def test_a_clone_of_a_folder_takes_that_folders_contents(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    first = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "first", content=True)
    hub.ledger.clear()
    second = shell.clone(str(first), tmp_path / "second")
    shell.ours("get", ".", cwd=second)
    assert is_filled(second)
    assert ("", 0) == (shell.status(second), len(hub.ledger))


def test_the_hubs_token_opens_a_private_repo(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    url = hub.endpoint.replace("://", "://user:hf_demo@")
    clone = shell.clone(f"{url}/org/private", tmp_path / "p")
    shell("git", "remote", "set-url", "origin", f"{hub.endpoint}/org/private", cwd=clone)
    told = shell.report("get", ".", cwd=clone, code=3)
    assert {"w.bin": "denied"} == outcomes(told)
    shell.report("get", ".", cwd=clone, env={"HF_TOKEN": "hf_demo"})
    assert [False] == [record.authorization for record in hub.ledger.requests(origin="cdn")]


def test_the_hubs_token_goes_to_no_server_that_a_clone_names(hub: MockHub, shell: Shell, clone: Path) -> None:
    """A clone's `.lfsconfig` is anybody's: it may name a server, and gets nothing for it."""
    url = f"{hub.endpoint.replace('127.0.0.1', 'localhost')}/org/m.git/info/lfs"
    (clone / ".lfsconfig").write_text(f"[lfs]\n\turl = {url}\n")
    shell.report("get", ".", cwd=clone, env={"HF_TOKEN": "hf_demo"})
    assert is_filled(clone)
    assert {False} == {record.authorization for record in hub.ledger.requests()}


def test_a_password_of_gits_own_helpers_is_used_and_approved(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    url = hub.endpoint.replace("://", "://user:hf_demo@")
    clone = shell.clone(f"{url}/org/private", tmp_path / "p")
    shell("git", "remote", "set-url", "origin", f"{hub.endpoint}/org/private", cwd=clone)
    (shell.home / "passwords").write_text(f"{url}\n")
    shell("git", "config", "--global", "credential.helper", f"store --file {shell.home / 'passwords'}", cwd=clone)
    elsewhere = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": "hf_other"}
    told = shell.report("get", ".", cwd=clone, env=elsewhere)
    assert {"w.bin": "fetched"} == outcomes(told)
    assert [401, 200] == [record.status for record in hub.ledger.requests(kind="lfs")][-2:]
    assert "hf_demo" in (shell.home / "passwords").read_text()


def test_headers_of_an_action_go_to_its_own_address_alone(hub: MockHub, shell: Shell, clone: Path) -> None:
    """Neither to where that address redirects, nor to the LFS server itself."""
    hub.configure(lfs_header=True)
    hub.fault(RedirectTo(to="other"), origin="cdn", path="large.safetensors")
    shell.report("get", ".", cwd=clone)
    assert is_filled(clone)
    shown = {(record.origin, record.authorization) for record in hub.ledger.requests() if record.kind != "git"}
    assert {("hub", False), ("cdn", True), ("other", False)} == shown
    assert not any(record.query for record in hub.ledger.requests(origin="cdn"))


def test_a_server_is_asked_over_ssh_where_its_objects_lie(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    url = hub.endpoint.replace("://", "://user:hf_demo@")
    clone = shell.clone(f"{url}/org/private", tmp_path / "p")
    shell("git", "remote", "set-url", "origin", "git@example.org:org/my repo", cwd=clone)
    fake = shell.home / "ssh"
    basic = {"Authorization": "Basic dXNlcjpoZl9kZW1v"}
    answer = {"href": f"{hub.endpoint}/org/private.git/info/lfs", "header": basic, "expires_in": 600}
    fake.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {shell.home}/asked\necho '{json.dumps(answer)}'\n")
    fake.chmod(0o755)
    shell.report("get", ".", cwd=clone, env={"GIT_SSH_COMMAND": str(fake)})
    assert SMALL.read(0, SMALL.size) == (clone / "w.bin").read_bytes()
    asked = (shell.home / "asked").read_text().splitlines()
    assert ["git@example.org", "git-lfs-authenticate 'org/my repo' download"] == asked


# --- troubles ------------------------------------------------------------------------------------------------


def test_an_object_that_is_refused_fails_alone(hub: MockHub, shell: Shell, clone: Path) -> None:
    hub.configure(lfs_errors={AWKWARD: 410, "large.safetensors": 403})
    told = shell.report("get", ".", cwd=clone, code=3)
    expected = {
        AWKWARD: "absent",
        "large.safetensors": "denied",
        "sub/small.bin": "fetched",
        "twin.bin": "copied",
    }
    assert expected == {**outcomes(told), "sub/small.bin": "fetched", "twin.bin": "copied"}
    assert "" == shell.status(clone)  # pointers that stayed are as committed, too


def test_a_server_that_wants_us_to_wait_is_waited_for(hub: MockHub, shell: Shell, clone: Path) -> None:
    hub.fault(Status(code=429, retry_after=1), nth="first 1", route="lfs")
    shell.report("get", ".", cwd=clone)
    asked = hub.ledger.requests(kind="lfs")
    assert [429, 200] == [record.status for record in asked]
    assert asked[1].t_start - asked[0].t_start >= 1


def test_an_address_that_expired_is_asked_for_again(hub: MockHub, shell: Shell, clone: Path) -> None:
    hub.fault(Status(code=403), nth="first 1", origin="cdn", path="large.safetensors")
    # One connection: where two ask, the other may go on with what this one could not get.
    shell.report("get", ".", "--connections", "1", cwd=clone)
    assert is_filled(clone)
    assert 2 <= len(hub.ledger.requests(kind="lfs"))


def test_bad_bytes_are_never_published(hub: MockHub, shell: Shell, clone: Path) -> None:
    """What git-lfs would smudge into the work tree only after its own hash, we do as well; and we say who promised."""
    hub.fault(Flip(offset=5), nth="first 1", path="large.safetensors", covers=5)
    hub.fault(Flip(offset=7), path="sub/small.bin")
    hub.fault(Flip(offset=7), path="twin.bin")
    done = shell.ours("get", ".", "--json", cwd=clone, code=1)
    told = json.loads(done.stdout.splitlines()[-1])
    found = outcomes(told)
    assert ("refetched", "corrupt", "corrupt") == tuple(
        found[path] for path in ("large.safetensors", "sub/small.bin", "twin.bin")
    )
    assert is_filled(clone, "large.safetensors", AWKWARD)
    assert ("", 2) == (shell.status(clone), told["quarantined"])
    assert "its pointer promises" in done.stderr


def test_a_killed_run_goes_on_where_it_stopped(hub: MockHub, shell: Shell, clone: Path) -> None:
    argv = [sys.executable, "-m", "fetchverify", "get", ".", "--limit-rate", "10M", "-q"]
    with subprocess.Popen(argv, cwd=clone, env=shell.env) as process:
        journals = clone / ".git" / "fetchverify" / "partial"
        until = time.monotonic() + 20
        while not any(path.stat().st_size > 100 for path in journals.glob("*/journal")):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    pointer = (clone / "large.safetensors").read_bytes()
    assert len(pointer) < 200
    hub.ledger.clear()
    told = shell.report("get", ".", cwd=clone)
    assert is_filled(clone)
    # The last block is of 4 MiB; what landed is not asked for again.
    assert told["bytes_fetched"] <= sum(value.size for value in CONTENT.values()) - 4 * MiB
    assert ("", []) == (shell.status(clone), stored(clone))


def test_what_an_interrupted_run_filled_is_no_change_to_git(hub: MockHub, shell: Shell, clone: Path) -> None:
    """After Ctrl-C some files are content and some are pointers: to git all are as committed."""
    argv = [sys.executable, "-m", "fetchverify", "get", ".", "--limit-rate", "2M", "-q"]
    with subprocess.Popen(argv, cwd=clone, env=shell.env) as process:
        until = time.monotonic() + 20
        while (clone / AWKWARD).stat().st_size < 1024 or (clone / "twin.bin").stat().st_size < 1024:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert 130 == process.wait(20)
    assert (clone / "large.safetensors").stat().st_size < 1024
    assert ("", []) == (shell.status(clone), stored(clone))


def test_what_a_killed_git_lfs_left_is_taken_over(hub: MockHub, shell: Shell, clone: Path) -> None:
    hub.fault(Trickle(rate=6 * MiB), path="large.safetensors")
    incomplete = clone / ".git" / "lfs" / "incomplete"
    argv = ["git", "lfs", "pull", "--include", "large.safetensors"]
    with subprocess.Popen(argv, cwd=clone, env=shell.env, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 30
        while sum(place.stat().st_size for place in incomplete.glob("*")) < 9 * MiB:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
    hub.clear_faults()
    hub.ledger.clear()
    shell.report("get", ".", cwd=clone)
    assert is_filled(clone)
    large = [record.bytes_sent for record in hub.ledger.requests(method="GET") if record.file == "large.safetensors"]
    assert sum(large) <= CONTENT["large.safetensors"].size - 8 * MiB
