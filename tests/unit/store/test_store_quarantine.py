"""Bad bytes are kept as evidence, but a lying server must not fill the disk."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fetchverify.core.manifest import Digest
from fetchverify.store.disk import Disk
from fetchverify.store.quarantine import BadCopy, Quarantine

BAD = BadCopy(
    promised=Digest(algo="sha256", hex="ab" * 32),
    path="model.bin",
    repo_id="org/name",
    commit="1" * 40,
    reason="the digest differs",
    when=1700000000.0,
    came="cd" * 32,
    host="hub.example",
    blocks=(3, 4),
)
OTHER = replace(BAD, promised=Digest(algo="git-sha1", hex="ef" * 20))


@pytest.fixture
def quarantine(disk: Disk, tmp_path: Path) -> Quarantine:
    return Quarantine(disk, tmp_path, total_cap=100)


def test_bad_bytes_are_moved_with_a_note(quarantine: Quarantine, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"bad")
    place = quarantine.take_path(tmp_path / "blob", BAD)
    assert place == tmp_path / "quarantine" / BAD.promised.key
    assert (b"bad", False) == (place.read_bytes(), (tmp_path / "blob").exists())
    assert 0o600 == place.stat().st_mode & 0o777
    assert [
        {
            "promised": {"algo": "sha256", "hex": "ab" * 32},
            "path": "model.bin",
            "repo_id": "org/name",
            "commit": "1" * 40,
            "reason": "the digest differs",
            "when": 1700000000.0,
            "came": "cd" * 32,
            "host": "hub.example",
            "blocks": [3, 4],
            "kept": True,
        }
    ] == quarantine.notes(BAD.promised)
    assert (1, 3) == (quarantine.count(), quarantine.size())


def test_one_copy_a_digest_is_kept_and_then_notes_only(quarantine: Quarantine, tmp_path: Path) -> None:
    first = quarantine.take_bytes(b"first", BAD)
    (tmp_path / "blob").write_bytes(b"second")
    assert quarantine.take_path(tmp_path / "blob", BAD) is None
    assert not (tmp_path / "blob").exists()
    assert first is not None
    assert b"first" == first.read_bytes()
    assert [True, False] == [note["kept"] for note in quarantine.notes(BAD.promised)]
    assert 1 == quarantine.count()


def test_beyond_the_cap_only_notes_are_kept(quarantine: Quarantine) -> None:
    assert quarantine.take_bytes(b"x" * 90, BAD) is not None
    assert quarantine.take_bytes(b"x" * 11, OTHER) is None
    assert quarantine.take_bytes(b"x" * 10, OTHER) is not None
    assert (2, 100) == (quarantine.count(), quarantine.size())


def test_notes_do_not_grow_for_ever(quarantine: Quarantine, tmp_path: Path) -> None:
    for number in range(50):
        quarantine.take_bytes(b"x", replace(BAD, when=float(number)))
    assert [float(number) for number in range(30, 50)] == [note["when"] for note in quarantine.notes(BAD.promised)]
    assert b'"times": 50' in (tmp_path / "quarantine" / f"{BAD.promised.key}.json").read_bytes()


def test_what_is_gone_already_is_noted(quarantine: Quarantine, tmp_path: Path) -> None:
    assert quarantine.take_path(tmp_path / "absent", BAD) is None
    assert [False] == [note["kept"] for note in quarantine.notes(BAD.promised)]


def test_another_file_system_is_no_obstacle(
    quarantine: Quarantine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def other_device(src: str | Path, dst: str | Path) -> None:
        if str(src).endswith("blob"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(src, dst)

    monkeypatch.setattr(os, "replace", other_device)
    (tmp_path / "blob").write_bytes(b"bad")
    place = quarantine.take_path(tmp_path / "blob", BAD)
    assert place is not None
    assert b"bad" == place.read_bytes()
    assert not (tmp_path / "blob").exists()


def test_torn_notes_are_begun_anew(quarantine: Quarantine, tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    for torn in (b"", b"{", b"[]", b'{"notes": 3, "times": "x"}'):
        (tmp_path / "quarantine" / f"{BAD.promised.key}.json").write_bytes(torn)
        quarantine.take_bytes(b"x", BAD)
        assert 1 == len(quarantine.notes(BAD.promised))


def test_it_is_emptied_by_command(quarantine: Quarantine, tmp_path: Path) -> None:
    assert 0 == quarantine.empty()
    quarantine.take_bytes(b"x", BAD)
    quarantine.take_bytes(b"x", OTHER)
    assert (2, 0, False) == (quarantine.empty(), quarantine.count(), (tmp_path / "quarantine").exists())
