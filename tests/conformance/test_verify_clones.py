"""`verify` over clones that real git and git-lfs made: the clone's own commit says what each file should be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mock_server import MockHub
from tests.conformance.clones import AWKWARD, CONTENT, FILES, Shell

NOBODY = {"HF_ENDPOINT": "http://127.0.0.1:9"}


def found(told: list[dict[str, Any]], *ranks: str) -> dict[str, str]:
    return {
        one["path"]: one["finding"]
        for one in told
        if one["kind"] == "Finding" and one["rank"] in (ranks or ("damage",))
    }


def verify(shell: Shell, clone: Path, *more: str, code: int, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    done = shell.ours("verify", ".", "--json", "-q", *more, cwd=clone, code=code, env=env)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def filled(hub: MockHub, shell: Shell, tmp_path: Path) -> Path:
    """A clone with its contents, by git-lfs itself."""
    return shell.clone(f"{hub.endpoint}/org/m", tmp_path / "filled", content=True)


def test_a_clone_of_git_lfs_is_proved_by_its_own_commit(hub: MockHub, shell: Shell, filled: Path) -> None:
    hub.ledger.clear()
    told = verify(shell, filled, "--offline", code=0, env=NOBODY)
    evidence = {one["path"]: one["evidence"] for one in told if one["kind"] == "File"}
    assert set(FILES) <= set(evidence)
    assert {"the clone's commit"} == set(evidence.values())
    assert {} == found(told, "damage", "unproved", "litter")
    assert "" == shell.status(filled), "what is noted of proofs is hidden from git"
    assert 0 == len(hub.ledger)


def test_a_commit_that_the_hub_does_not_give_is_held_against_the_clone(shell: Shell, filled: Path) -> None:
    """It was never pushed, or a forced push took it away; the run says which word it took."""
    shell("git", "commit", "-q", "--allow-empty", "-m", "not pushed", cwd=filled)
    done = shell.ours("verify", ".", cwd=filled)
    assert "held against what lies here" in done.stderr
    assert "proved against the clone's commit" in done.stdout
    told = verify(shell, filled, "-r", "main", code=0)
    assert {"the Hub's listing"} == {one["evidence"] for one in told if one["kind"] == "File"}


def test_pointers_that_were_never_filled_are_named(shell: Shell, clone: Path) -> None:
    """What `git clone` without git-lfs leaves, and loaders choke on."""
    told = verify(shell, clone, "--offline", code=1)
    assert dict.fromkeys(CONTENT, "pointer") == found(told)


def test_damage_in_a_clone_is_named(shell: Shell, filled: Path) -> None:
    verify(shell, filled, "--offline", code=0)
    data = bytearray((filled / "large.safetensors").read_bytes())
    data[1000] ^= 1
    (filled / "large.safetensors").write_bytes(data)
    os.truncate(filled / "twin.bin", 100)
    (filled / "sub" / "small.bin").unlink()
    (filled / "config.json").write_bytes(b'{"a": 2}\n')
    (filled / AWKWARD).unlink()
    (filled / AWKWARD).mkdir()
    (filled / "mine.txt").write_text("mine")
    told = verify(shell, filled, "--offline", code=1)
    assert {
        "large.safetensors": "corrupt",
        "twin.bin": "truncated",
        "sub/small.bin": "missing",
        "config.json": "corrupt",
        AWKWARD: "missing",
    } == found(told)
    assert {"mine.txt": "extra"} == found(told, "litter")


def test_the_clones_commit_is_the_truth_not_todays(hub: MockHub, shell: Shell, filled: Path) -> None:
    hub.world.repo("org/m").commit({"config.json": b'{"a": 3}\n'})
    assert {} == found(verify(shell, filled, code=0))
    assert {"config.json": "corrupt"} == found(verify(shell, filled, "-r", "main", code=1))


def test_committed_links_are_compared_as_text(shell: Shell, filled: Path, tmp_path: Path) -> None:
    """Wherever they lead: what they lead to is not the repo's."""
    (filled / "inside").symlink_to("config.json")
    (filled / "nowhere").symlink_to("gone/away")
    (filled / "outside").symlink_to("/etc/hostname")
    shell("git", "add", "inside", "nowhere", "outside", cwd=filled)
    shell("git", "commit", "-qm", "links", cwd=filled)
    told = verify(shell, filled, "--offline", code=0)
    assert {"inside", "nowhere", "outside"} <= {one["path"] for one in told if one["kind"] == "File"}
    (filled / "inside").unlink()
    (filled / "inside").symlink_to("large.safetensors")
    assert {"inside": "unproved"} == found(verify(shell, filled, "--offline", code=0), "damage", "unproved")


def test_sums_of_a_clone_with_links_hold_its_files_alone(shell: Shell, filled: Path) -> None:
    """`sha256sum` would follow a link: to nowhere, or to somebody's file outside the clone."""
    (filled / "nowhere").symlink_to("gone/away")
    (filled / "outside").symlink_to("/etc/hostname")
    shell("git", "add", "nowhere", "outside", cwd=filled)
    shell("git", "commit", "-qm", "links", cwd=filled)
    shell.ours("verify", ".", "--offline", "--write-sums", cwd=filled)
    written = (filled / "SHA256SUMS").read_bytes()
    assert (b"nowhere" in written, b"outside" in written, b"config.json" in written) == (False, False, True)
    shell("sha256sum", "-c", "--strict", "SHA256SUMS", cwd=filled)


def test_a_clones_own_programs_are_not_run(shell: Shell, filled: Path, tmp_path: Path) -> None:
    """A clone from an archive brings its configuration along: hooks, filters, a file system monitor."""
    marker = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    for hook in ("post-index-change", "fsmonitor-watchman", "post-checkout", "pre-commit"):
        place = filled / ".git" / "hooks" / hook
        place.unlink(missing_ok=True)
        shutil.copy(program, place)
    for key in (
        "core.fsmonitor",
        "filter.lfs.smudge",
        "filter.lfs.clean",
        "filter.lfs.process",
        "core.pager",
        "core.sshCommand",
    ):
        shell("git", "config", key, str(program), cwd=filled)
    shell("git", "config", "alias.rev-parse", f"!{program}", cwd=filled)
    marker.unlink(missing_ok=True)
    verify(shell, filled, "--offline", "--deep", code=0)
    assert not marker.exists()
