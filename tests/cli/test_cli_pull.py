"""`fetchverify pull`, and `get` with a path: which options go together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(*args: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fetchverify", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pull --link --lfs-store", "`--link` and `--lfs-store` exclude each other"),
        ("get . --link --lfs-store", "`--link` and `--lfs-store` exclude each other"),
        ("get . --to x", "`--to` makes no sense in a git clone"),
        ("get ./x --revision v1", "`-r` makes no sense in a git clone"),
        ("get ~ -t dataset", "`-t` makes no sense in a git clone"),
        ("get /tmp --layout hf", "`--layout` makes no sense in a git clone"),
        ("get org/name --link", "`--link` makes no sense without the path of a git clone"),
        ("get org/name --remote x", "`--remote` makes no sense without the path of a git clone"),
        ("pull .", "`.` is no git clone"),
        ("get .", "`.` is no git clone"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, message: str, tmp_path: Path) -> None:
    code, err = run(*line.split(), cwd=tmp_path)
    assert (2, True) == (code, message in err), err
