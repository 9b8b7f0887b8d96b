"""The systemd units that README shows are ones that systemd takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs import readme

UNITS = dict(re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", readme.text(), re.DOTALL))


def test_a_service_and_its_timer_are_shown() -> None:
    assert {"fetchverify-mirror.service", "fetchverify-mirror.timer"} <= set(UNITS)


@pytest.mark.parametrize("name", sorted(UNITS))
def test_systemd_takes_it(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("`systemd-analyze` is not installed")
    program = tmp_path / "fetchverify"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit, text in UNITS.items():
        here = text.replace("/usr/local/bin/fetchverify", str(program)).replace("User=mirror", "User=daemon")
        (tmp_path / unit).write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if name.partition(".")[0] in line]
    assert (0, []) == (done.returncode, said), done.stderr
