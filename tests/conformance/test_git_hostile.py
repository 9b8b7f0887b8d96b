"""Clones that somebody else made: nothing is written outside, nothing is run, every refusal says why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mock_server import MockHub
from tests.conformance.clones import AWKWARD, SMALL, Shell, is_filled, outcomes

OID = "a" * 64


def commit(shell: Shell, clone: Path, *, attributes: str = "") -> None:
    path = clone / ".gitattributes"
    path.write_text(path.read_text() + attributes)
    shell("git", "add", "-A", ":!huge.bin", cwd=clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    shell("git", "commit", "-q", "-m", "more", cwd=clone)


def test_nothing_is_written_through_a_symlink(shell: Shell, clone: Path, tmp_path: Path) -> None:
    """A folder of the index may be a link in the work tree: git refuses to write beyond one, and so do we."""
    outside = tmp_path / "outside"
    outside.mkdir()
    pointer = (clone / "sub/small.bin").read_bytes()
    (outside / "small.bin").write_bytes(pointer)
    (clone / "sub/small.bin").unlink()
    (clone / "sub").rmdir()
    (clone / "sub").symlink_to(outside)
    (clone / "twin.bin").unlink()
    (clone / "twin.bin").symlink_to(outside / "small.bin")
    told = shell.report("get", ".", cwd=clone, code=1)
    assert ("refused", "refused", "fetched") == tuple(
        outcomes(told)[path] for path in ("sub/small.bin", "twin.bin", AWKWARD)
    )
    assert pointer == (outside / "small.bin").read_bytes()


@pytest.mark.parametrize(
    ("size", "code"), [(1 << 49, 5), (1 << 60, 1), (9999999999999999999, 1)], ids=["disk", "file", "number"]
)
def test_absurd_sizes_are_refused_before_anything_is_reserved(
    hub: MockHub, shell: Shell, clone: Path, size: int, code: int
) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {size}\n"
    (clone / "huge.bin").write_text(text)
    # Before the attribute: git-lfs itself would take the last one for no pointer.
    shell("git", "add", "huge.bin", cwd=clone)
    commit(shell, clone, attributes="*.bin filter=lfs diff=lfs merge=lfs -text\n")
    told = shell.report("get", ".", cwd=clone, code=code)
    assert text == (clone / "huge.bin").read_text()
    if code == 5:
        assert "bytes are missing" in told["message"]
    else:
        assert "refused" == outcomes(told)["huge.bin"]
        assert is_filled(clone)


def test_an_object_that_the_server_never_had_is_absent(hub: MockHub, shell: Shell, clone: Path) -> None:
    (clone / "lost.bin").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 5\n")
    commit(shell, clone, attributes="*.bin filter=lfs diff=lfs merge=lfs -text\n")
    told = shell.report("get", ".", cwd=clone, code=3)
    assert "absent" == outcomes(told)["lost.bin"]
    assert is_filled(clone)
    assert "" == shell.status(clone)


def test_what_is_no_lfs_file_to_git_stays_a_pointer(shell: Shell, clone: Path) -> None:
    """Without the attribute git would take the content for a change, and commit it."""
    (clone / "plain.txt").write_bytes((clone / "twin.bin").read_bytes())
    commit(shell, clone)
    done = shell.ours("get", ".", cwd=clone)
    assert "no line of `.gitattributes`" in done.stderr
    assert (clone / "plain.txt").stat().st_size < 200
    assert "" == shell.status(clone)


def test_a_submodule_is_named_and_not_entered(hub: MockHub, shell: Shell, clone: Path) -> None:
    allow = ("-c", "protocol.file.allow=always")
    skip = {"GIT_LFS_SKIP_SMUDGE": "1"}
    shell("git", *allow, "submodule", "add", "-q", f"{hub.endpoint}/org/m", "inner", cwd=clone, env=skip)
    shell("git", "commit", "-q", "-m", "inner", cwd=clone)
    done = shell.ours("get", ".", cwd=clone)
    assert "`fetchverify pull inner`" in done.stderr
    assert (clone / "inner/twin.bin").stat().st_size < 200
    shell.ours("pull", "inner", cwd=clone)  # its `.git` is a file
    assert is_filled(clone / "inner")
    assert ("", "") == (shell.status(clone), shell.status(clone / "inner"))


def test_a_linked_work_tree_is_filled_by_its_own_index(shell: Shell, clone: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    shell("git", "worktree", "add", "-q", "-b", "other", str(linked), cwd=clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    shell.ours("get", str(linked), "--link", cwd=tmp_path)
    assert is_filled(linked)
    assert ("", "") == (shell.status(linked), shell.status(clone))
    assert (clone / "twin.bin").stat().st_size < 200
    shell("git", "lfs", "fsck", cwd=linked)
    told = shell.report("get", ".", "--link", cwd=clone)  # from the store that both share
    assert (0, {"linked"}) == (told["bytes_fetched"], set(outcomes(told).values()))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("empty", "is no git clone"),
        ("bare.git", "is a bare repo"),
        ("m/.git", "lies in a git directory"),
        ("missing", "is no folder"),
    ],
)
def test_what_is_no_work_tree_is_said_to_be_none(
    hub: MockHub, shell: Shell, clone: Path, tmp_path: Path, where: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    shell("git", "clone", "-q", "--bare", f"{hub.endpoint}/org/m", "bare.git", cwd=tmp_path)
    done = shell.ours("get", f"./{where}", cwd=tmp_path, code=2)
    assert message in done.stderr
    assert "hint: " in done.stderr


def test_a_bare_repo_that_lies_in_a_work_tree_is_not_read(hub: MockHub, shell: Shell, clone: Path) -> None:
    """Its configuration came with the files: git itself warns of such (`safe.bareRepository`)."""
    trap = clone / "trap"
    shell("git", "init", "-q", "--bare", "inner", cwd=clone)
    with (clone / "inner" / "config").open("a") as config:
        config.write(f"[core]\n\tfsmonitor = touch {trap}\n\tsshCommand = touch {trap}\n\tworktree = {clone}\n")
    shell.ours("get", "./inner", cwd=clone, code=2)
    assert not trap.exists()


def test_an_environment_of_another_repo_does_not_mislead(shell: Shell, clone: Path, tmp_path: Path) -> None:
    """In a hook, git's own variables name the repo that runs the hook."""
    env = {"GIT_DIR": str(tmp_path / "elsewhere"), "GIT_INDEX_FILE": str(tmp_path / "index")}
    shell.ours("get", ".", cwd=clone, env=env)
    assert is_filled(clone)
    assert "" == shell.status(clone)


def test_a_clone_of_somebody_else_is_not_trusted_unless_git_does(shell: Shell, clone: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("changing a file's owner needs root")
    for path in (clone, clone / ".git"):
        os.chown(path, 12345, 12345)
    done = shell.ours("get", ".", cwd=clone, code=2)
    assert "safe.directory" in done.stderr


def test_names_that_no_disk_of_others_could_hold_are_refused_alone(hub: MockHub, shell: Shell, clone: Path) -> None:
    pointer = (clone / "twin.bin").read_bytes()
    (clone / "a\\b.bin").write_bytes(pointer)
    Path(os.fsdecode(os.fsencode(clone) + b"/bad\xff.bin")).write_bytes(pointer)
    (clone / "con.bin").write_bytes(pointer)  # a device on Windows; but it is here already
    commit(shell, clone, attributes="*.bin filter=lfs diff=lfs merge=lfs -text\n")
    told = shell.report("get", ".", cwd=clone, code=1)
    found = outcomes(told)
    assert {"refused": 2} == {kind: list(found.values()).count(kind) for kind in ("refused",)}
    assert SMALL.read(0, SMALL.size) == (clone / "con.bin").read_bytes()
    assert is_filled(clone)
    assert "" == shell.status(clone)


def test_another_git_command_is_waited_for_and_then_named(shell: Shell, clone: Path) -> None:
    (clone / ".git" / "index.lock").touch()
    done = shell.ours("get", ".", cwd=clone, code=6)
    assert "index.lock" in done.stderr
    assert is_filled(clone)
    (clone / ".git" / "index.lock").unlink()
    shell.ours("get", ".", cwd=clone)
    assert "" == shell.status(clone)


def test_a_server_that_is_none_is_said_to_be_none(hub: MockHub, shell: Shell, clone: Path) -> None:
    for url, code in ((f"{hub.endpoint}/api/whoami-v2", 3), ("http://127.0.0.1:1/x", 4)):
        shell("git", "config", "lfs.url", url, cwd=clone)
        told = shell.report("get", ".", "--retries", "1", cwd=clone, code=code)
        assert not is_filled(clone)
        assert "" == shell.status(clone)
        assert "outcomes" in told
    shell("git", "config", "lfs.url", "ext::sh -c touch% x", cwd=clone)
    assert "is no address" in shell.ours("get", ".", cwd=clone, code=2).stderr


def test_a_clone_without_a_remote_says_so(hub: MockHub, shell: Shell, clone: Path) -> None:
    shell("git", "remote", "remove", "origin", cwd=clone)
    told = shell.report("get", ".", cwd=clone, code=3)
    assert {"absent"} == set(outcomes(told).values())
    assert all("no remote" in outcome["detail"] for outcome in told["outcomes"])
