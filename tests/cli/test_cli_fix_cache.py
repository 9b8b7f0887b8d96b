"""The command line of `fix-cache`: what people type, and what comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fetchverify.cli.values import Duration, Size
from mock_server import MockHub
from tests.damage import FOLDER, REPO, a_world

COMMAND = [sys.executable, "-m", "fetchverify"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("12h", 43200.0), ("30d", 2592000.0), ("1.5 w", 907200.0), ("5M", 300.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds == Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500GB", 500 * 10**9), ("2T", 2 * 10**12), ("750GiB", 750 << 30), ("1.5k", 1500), ("12", 12)],
)
def test_sizes_are_decimal_as_disks_are_sold(text: str, size: int) -> None:
    assert size == Size().convert(text, None, None)


@pytest.mark.parametrize(("kind", "text"), [(Duration(), "30"), (Duration(), "d"), (Size(), "5M/s"), (Size(), "much")])
def test_nonsense_is_refused(kind: Duration | Size, text: str) -> None:
    with pytest.raises(click.UsageError):
        kind.convert(text, None, None)


def test_the_plan_the_report_and_the_exit_code(tmp_path: Path) -> None:
    with MockHub(a_world()) as hub:
        common = ["--endpoint", hub.endpoint, "--token", "", "--cache-dir", str(tmp_path / "cache")]
        subprocess.run([*COMMAND, "get", REPO, "-q", *common], check=True, capture_output=True)
        (tmp_path / "cache" / FOLDER / "refs" / "dev").write_text("")

        def fix(*more: str) -> tuple[int, str, str]:
            command = [*COMMAND, "fix-cache", *more, *common]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        code, out, _ = fix("--dry-run", "--json")
        told = json.loads(out.splitlines()[-1])
        assert (1, True, "broken_ref") == (code, told["dry_run"], told["places"][0]["steps"][0]["finding"])
        code, out, err = fix(REPO)
        assert (0, "") == (code, err)
        assert "`refs/dev` was a ref without a commit" in out
        assert (0, "") == fix("-q")[:2]
        code, _, err = fix("org/none")
        assert (3, True) == (code, "is not in the cache" in err)
        (tmp_path / "pins").write_text("org/*  # ours\n\n")
        code, out, _ = fix("--unreferenced", "--pins", str(tmp_path / "pins"), "--json", "--older-than", "0s")
        assert (0, []) == (code, json.loads(out.splitlines()[-1])["places"][0]["purged"])
        assert 2 == fix("--pins", str(tmp_path / "nowhere"))[0]
