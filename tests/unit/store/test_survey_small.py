"""Small files of others are read, and nothing that only has their name."""

from __future__ import annotations

import os
from pathlib import Path

from fetchverify.store.scan import small_bytes


def test_what_is_no_small_file_has_no_bytes(tmp_path: Path) -> None:
    """A folder called `SHA256SUMS` ended a run in a traceback."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    before = len(os.listdir("/proc/self/fd"))
    assert b"12345" == small_bytes(str(tmp_path / "file"), 5)
    assert None is small_bytes(str(tmp_path / "file"), 4)
    assert [None] * 4 == [small_bytes(str(tmp_path / name), 9) for name in ("folder", "pipe", "link", "absent")]
    assert before == len(os.listdir("/proc/self/fd"))
