"""The command line over the real `get` and a mock Hub: what only the two together can get wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from mock_server.content import Seeded
from mock_server.hub import MockHub
from mock_server.world import FileValue, World

ROOT = Path(__file__).parents[2]
SIZE = 64 << 20


def environment(home: Path, endpoint: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), "HF_ENDPOINT": endpoint}


def test_an_interrupted_download_stops_soon_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Ctrl-C is how people pause a long download."""
    world = World()
    files: dict[str, FileValue | None] = {"config.json": b"{}", "model.safetensors": Seeded(SIZE, "a")}
    world.add("org/name", files)
    command = [sys.executable, "-m", "fetchverify", "get", "org/name"]
    with MockHub(world) as hub:
        env = environment(tmp_path, hub.endpoint)
        process = subprocess.Popen(
            [*command, "--limit-rate", "20M"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        partial = tmp_path / "hub/models--org--name/.fetchverify/partial"
        deadline = time.monotonic() + 30
        # A journal of more than its header: a block landed.
        while not any(path.stat().st_size > 96 for path in partial.glob("*/journal")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert (130, "") == (process.returncode, out)
        assert time.monotonic() - began < 5
        assert re.search(r"^error: interrupted: 1 of 2 files published, .* whole blocks are kept$", err, re.MULTILINE)
        assert err.endswith("hint: run the same command again to go on\n")

        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert re.search(r"fetching 1 of 2 files, .*; .* landed before", done.stderr)
        folder = Path(done.stdout.removesuffix("\n"))
        assert {"config.json", "model.safetensors"} == {path.name for path in folder.iterdir()}

        again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (0, done.stdout) == (again.returncode, again.stdout)
        assert again.stderr == "nothing to do: 2 files, 67.1 MB, all proved already\n"
