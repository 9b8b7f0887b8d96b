"""`fetchverify get .` in place of `git lfs pull`: what real git and git-lfs find in the clone afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mock_server import MiB, MockHub
from tests.conformance.clones import AWKWARD, CONTENT, LARGE, Shell, is_filled, outcomes, stored
from tests.mounts import mounted

# --- what git finds ------------------------------------------------------------------------------------------


def test_git_sees_no_change_and_copies_nothing(hub: MockHub, shell: Shell, clone: Path) -> None:
    """The clean filter would copy every file into the store: git must have no reason to run it."""
    done = shell.ours("get", ".", cwd=clone)
    assert [str(clone)] == done.stdout.splitlines()
    assert is_filled(clone)
    assert "" == shell.status(clone)
    assert [] == stored(clone)
    assert [] == list((clone / ".git" / "fetchverify" / "partial").iterdir())


def test_a_second_run_asks_nobody(hub: MockHub, shell: Shell, clone: Path) -> None:
    shell.ours("pull", cwd=clone)
    hub.ledger.clear()
    told = shell.report("pull", cwd=clone)
    assert (False, 0, 0) == (told["changed"], told["bytes_fetched"], told["requests"])
    assert {"kept"} == set(outcomes(told).values())
    assert 0 == len(hub.ledger)


@pytest.mark.parametrize("how", ["--link", "--lfs-store"])
def test_git_lfs_has_nothing_to_do_where_its_store_was_filled(
    hub: MockHub, shell: Shell, clone: Path, how: str
) -> None:
    shell.ours("get", ".", how, cwd=clone)
    linked = {path.stat().st_ino for path in stored(clone)} & {(clone / path).stat().st_ino for path in CONTENT}
    assert (len(set(CONTENT.values())) if how == "--link" else 0) == len(linked)
    hub.ledger.clear()
    shell("git", "lfs", "fsck", cwd=clone)
    shell("git", "lfs", "pull", cwd=clone)
    assert 0 == len(hub.ledger)
    assert "" == shell.status(clone)
    assert is_filled(clone)


def test_the_store_can_be_filled_later(hub: MockHub, shell: Shell, clone: Path) -> None:
    shell.ours("get", ".", cwd=clone)
    hub.ledger.clear()
    shell.ours("get", ".", "--lfs-store", cwd=clone)
    shell("git", "lfs", "fsck", cwd=clone)
    assert 0 == len(hub.ledger)
    assert "" == shell.status(clone)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_reflinks_fill_the_store_and_take_no_space(hub: MockHub, shell: Shell, tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind, "400M") as disk:
        clone = shell.clone(f"{hub.endpoint}/org/m", disk / "m")
        done = shell.ours("get", ".", cwd=clone)
        assert "reflink" in done.stderr
        subprocess.run(["sync", "-f", str(disk)], check=True)
        taken = os.statvfs(disk)
        assert is_filled(clone)
        hub.ledger.clear()
        shell("git", "lfs", "fsck", cwd=clone)
        shell("git", "lfs", "pull", cwd=clone)
        assert (0, "") == (len(hub.ledger), shell.status(clone))
        (clone / "more").write_bytes(os.urandom(LARGE.size))
        subprocess.run(["sync", "-f", str(disk)], check=True)
        after = os.statvfs(disk)
        # A second copy of the store would have cost as much as this file does.
        whole = taken.f_blocks * taken.f_frsize
        free, left = taken.f_bfree * taken.f_frsize, after.f_bfree * after.f_frsize
        assert free - left >= LARGE.size * 0.9
        assert whole - free < 2 * sum({value: value.size for value in CONTENT.values()}.values()) + 150 * MiB
        extents = subprocess.run(["filefrag", "-v", str(clone / "large.safetensors")], capture_output=True, text=True)
        assert "shared" in extents.stdout


def test_a_sparse_checkout_stays_sparse(hub: MockHub, shell: Shell, tmp_path: Path) -> None:
    clone = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "m", "-c", "index.sparse=true")
    shell("git", "sparse-checkout", "set", "--cone", "sub", cwd=clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    assert not (clone / AWKWARD).exists()
    shell.ours("get", ".", cwd=clone)
    assert is_filled(clone, "sub/small.bin", "large.safetensors")
    assert not (clone / AWKWARD).exists()
    assert ("", []) == (shell.status(clone), stored(clone))


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.eol=crlf", "index.version=4", "core.fileMode=false"])
def test_settings_of_git_change_nothing(hub: MockHub, shell: Shell, tmp_path: Path, setting: str) -> None:
    clone = shell.clone(f"{hub.endpoint}/org/m", tmp_path / "m", "-c", setting)
    shell("git", "config", *setting.split("="), cwd=clone)
    shell.ours("get", ".", cwd=clone)
    assert is_filled(clone)
    assert ("", []) == (shell.status(clone), stored(clone))


def test_extensions_of_the_index_are_kept(hub: MockHub, shell: Shell, clone: Path) -> None:
    """Git's cached trees and untracked files must not have to be found again in a repo of 100,000 files."""
    shell("git", "config", "core.untrackedCache", "true", cwd=clone)
    shell("git", "update-index", "--untracked-cache", cwd=clone)
    shell.status(clone)
    before = (clone / ".git" / "index").read_bytes()
    shell.ours("get", ".", cwd=clone)
    after = (clone / ".git" / "index").read_bytes()
    assert len(before) == len(after)
    assert [name in before for name in (b"TREE", b"UNTR")] == [name in after for name in (b"TREE", b"UNTR")]
    assert b"TREE" in after
    shell("git", "fsck", "--strict", cwd=clone)


def test_a_split_index_is_left_to_git(hub: MockHub, shell: Shell, clone: Path) -> None:
    shell("git", "update-index", "--split-index", cwd=clone)
    done = shell.ours("get", ".", cwd=clone)
    assert "only git writes" in done.stderr
    assert is_filled(clone)
    assert "" == shell.status(clone)


def test_a_racy_change_of_another_file_is_still_seen(hub: MockHub, shell: Shell, clone: Path) -> None:
    """A file that changed in the second in which it was checked out, at the same length, is only found by looking."""
    config = clone / "config.json"
    before = config.stat()
    config.write_bytes(b'{"a": 2}\n')
    index = (clone / ".git" / "index").stat()
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(clone / ".git" / "index", ns=(index.st_atime_ns, before.st_mtime_ns))
    shell("git", "config", "core.trustctime", "false", cwd=clone)
    assert " M config.json\n" == shell("git", "--no-optional-locks", "status", "--porcelain", cwd=clone).stdout
    os.utime(clone / ".git" / "index", ns=(index.st_atime_ns, before.st_mtime_ns))
    shell.ours("get", ".", cwd=clone)
    assert " M config.json\n" == shell.status(clone)


# --- what was changed here stays -----------------------------------------------------------------------------


def test_what_was_changed_here_is_left_and_reported(hub: MockHub, shell: Shell, clone: Path) -> None:
    mine, other = b"x" * LARGE.size, b"my own notes"
    pointer = (clone / "sub/small.bin").read_bytes().replace(b"size 30720", b"size 30721")
    (clone / "large.safetensors").write_bytes(mine)
    (clone / AWKWARD).write_bytes(other)
    (clone / "sub/small.bin").write_bytes(pointer)
    told = shell.report("get", ".", cwd=clone, code=1)
    expected = {
        "large.safetensors": "refused",
        AWKWARD: "refused",
        "sub/small.bin": "refused",
        "twin.bin": "fetched",
    }
    assert expected == outcomes(told)
    assert [mine, other, pointer] == [
        (clone / path).read_bytes() for path in ("large.safetensors", AWKWARD, "sub/small.bin")
    ]
    changed = {line[3:].strip('"') for line in shell.status(clone).splitlines()}
    assert 3 == len(changed)
    assert "twin.bin" not in changed


def test_a_file_that_was_deleted_here_stays_away(shell: Shell, clone: Path) -> None:
    (clone / "large.safetensors").unlink()
    told = shell.report("get", ".", cwd=clone)
    assert "large.safetensors" not in outcomes(told)
    assert " D large.safetensors\n" == shell.status(clone)


def test_permissions_are_those_of_the_pointer(shell: Shell, clone: Path) -> None:
    shell("git", "update-index", "--chmod=+x", "twin.bin", cwd=clone)
    (clone / "twin.bin").chmod(0o755)
    shell.ours("get", ".", cwd=clone)
    assert 0o755 == (clone / "twin.bin").stat().st_mode & 0o777
    assert "M  twin.bin\n" == shell.status(clone)


# --- which files ---------------------------------------------------------------------------------------------


def test_files_are_chosen_as_typed_or_as_configured(shell: Shell, clone: Path) -> None:
    shell("git", "config", "lfs.fetchexclude", "*.safetensors,/sub", cwd=clone)
    assert {"twin.bin", AWKWARD} == plan(shell, clone)
    assert {"sub/small.bin"} == plan(shell, clone, "sub")
    assert {"large.safetensors"} == plan(shell, clone, "large.safetensors")
    shell("git", "config", "--unset", "lfs.fetchexclude", cwd=clone)
    assert {"sub/small.bin"} == plan(shell, clone / "sub")
    assert {"twin.bin", "sub/small.bin", AWKWARD} == plan(shell, clone, "--include", "*.bin")


def plan(shell: Shell, where: Path, *more: str) -> set[str]:
    told = shell.report("get", ".", "--dry-run", *more, cwd=where)
    return {file["path"] for file in told["files"]}


def test_of_a_committed_lfsconfig_only_safe_keys_are_taken(hub: MockHub, shell: Shell, clone: Path) -> None:
    """A repo that anybody wrote must not name programs; what git-lfs itself ignores, we do."""
    trap = clone / "trap"
    (clone / ".lfsconfig").write_text(
        "[lfs]\n\tfetchexclude = large.safetensors\n\tstorage = /tmp/elsewhere\n"
        f'[core]\n\tsshCommand = touch {trap}\n[credential]\n\thelper = "!touch {trap}"\n'
        f'[include]\n\tpath = {trap}\n[filter "lfs"]\n\tprocess = touch {trap}\n'
    )
    assert {"twin.bin", "sub/small.bin", AWKWARD} == set(outcomes(shell.report("get", ".", cwd=clone)))
    assert not trap.exists()
