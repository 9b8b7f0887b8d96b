"""Stat data in git's index, patched in place; real git says whether it believes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fetchverify.core.gitindex import ForeignIndexError, StatData, with_stats

PATHS = ["a", "dir/b", "dir/b c", "dir/deeper/ünï.bin", "x" * 300, "z"]


class Repo:
    def __init__(self, root: Path, *settings: str) -> None:
        if shutil.which("git") is None:
            pytest.skip("`git` is not installed")
        self.root = root
        self.id_bytes = 32 if "--object-format=sha256" in settings else 20
        self.git("init", "-q", *settings, str(root), cwd=root.parent)
        for name in PATHS:
            path = root / name[:250] if len(name) > 255 else root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        self.git("add", ".")

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.root, env=env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def index(self) -> Path:
        return self.root / ".git" / "index"

    def blob_ids(self) -> dict[bytes, str]:
        lines = [line for line in self.git("ls-files", "-s", "-z").split("\0") if line]
        return {line.partition("\t")[2].encode(): line.split()[1] for line in lines}

    def believed(self, path: str) -> bool:
        """Return whether git holds the file for unchanged without looking into it."""
        return path not in self.git("diff-files", "--name-only", "-z").split("\0")


def stat_data(path: Path) -> StatData:
    found = path.lstat()
    return StatData(
        ctime_ns=found.st_ctime_ns,
        mtime_ns=found.st_mtime_ns,
        device=found.st_dev,
        inode=found.st_ino,
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size,
    )


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("format_", ["sha1", "sha256"])
def test_git_believes_what_was_patched_and_nothing_else(tmp_path: Path, version: int, format_: str) -> None:
    """A pointer's blob stays in the index while the file is its content: git must go by the stat data."""
    repo = Repo(tmp_path / "r", f"--object-format={format_}")
    if version == 3:
        (repo.root / "later").write_text("later")
        repo.git("add", "-N", "later")  # an extended flag
    repo.git("update-index", "--index-version", str(max(version, 2)))
    repo.git("write-tree") if version != 3 else None
    changed = ["dir/b c", "dir/deeper/ünï.bin"]
    for name in (*changed, "z"):
        path = repo.root / name
        path.write_text("the content")
        os.utime(path, (1, 1))
    ids = repo.blob_ids()
    stats = {name.encode(): (ids[name.encode()], stat_data(repo.root / name)) for name in changed}
    before = repo.index.read_bytes()
    assert version in (before[7], 2)
    after = with_stats(before, stats, racy_from_s=1 << 40, id_bytes=repo.id_bytes)
    assert len(before) == len(after)
    repo.index.write_bytes(after)
    assert [True, True, False] == [repo.believed(name) for name in (*changed, "z")]
    repo.git("fsck")
    assert after == with_stats(after, stats, racy_from_s=1 << 40, id_bytes=repo.id_bytes)


def test_an_entry_that_holds_something_else_by_now_is_left_alone(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "r")
    index = repo.index.read_bytes()
    assert index == with_stats(index, {b"a": ("0" * 40, stat_data(repo.root / "z"))}, racy_from_s=1 << 40)
    assert index == with_stats(index, {b"no such": ("0" * 40, stat_data(repo.root / "z"))}, racy_from_s=1 << 40)


def test_racy_entries_are_marked_to_be_looked_into(tmp_path: Path) -> None:
    """As git does when it writes: an index that is younger must not make it believe files that it did not believe."""
    repo = Repo(tmp_path / "r")
    ids, index = repo.blob_ids(), repo.index.read_bytes()
    os.utime(repo.root / "a", (1, 1))
    patched = with_stats(index, {b"a": (ids[b"a"], stat_data(repo.root / "a"))}, racy_from_s=2)
    repo.index.write_bytes(patched)
    sizes = repo.git("ls-files", "--debug").count("size: 0\t")
    assert len(ids) - 1 == sizes


def test_a_checksum_that_was_skipped_stays_skipped(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "r")
    index = repo.index.read_bytes()[:-20] + bytes(20)
    ids = repo.blob_ids()
    os.utime(repo.root / "a", (1, 1))
    patched = with_stats(index, {b"a": (ids[b"a"], stat_data(repo.root / "a"))}, racy_from_s=1 << 40)
    assert patched != index
    assert bytes(20) == patched[-20:]


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "r")
    index = repo.index.read_bytes()
    broken = bytearray(index)
    broken[40] ^= 1
    zeros = bytes(20)
    for bad in (
        b"",
        bytes(broken),
        b"DIRC\0\0\0\x05" + index[8:],
        index[:-60] + zeros,
        b"DIRC\0\0\0\x02\xff\xff\xff\xff" + index[12:-20] + zeros,
    ):
        with pytest.raises(ForeignIndexError):
            with_stats(bad, {}, racy_from_s=0)
    repo.git("update-index", "--split-index")
    with pytest.raises(ForeignIndexError, match="split"):
        with_stats(repo.index.read_bytes(), {}, racy_from_s=0)


def test_a_file_of_exactly_four_gib_has_a_size() -> None:
    """The field has 32 bits, and 0 means "look into it"."""
    data = StatData(ctime_ns=0, mtime_ns=0, device=0, inode=0, uid=0, gid=0, size=4 << 30)
    assert bytes([0x80, 0, 0, 0]) == data.packed(0o100644)[-4:]
