"""Runs in a process of its own for `core`: one core's sha256, then the engine in process, then sha256 again; as JSON.

`python -m tests.bench.inside ENDPOINT REPO FOLDER SIZE`
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from tests.bench.units import MiB


def _sha256_rate(size: int) -> float:
    buffers = [bytes([number]) * MiB for number in range(64)]  # more than the caches hold, as in the engine
    state, began = hashlib.sha256(), time.perf_counter()
    for number in range(size // MiB):
        state.update(buffers[number % len(buffers)])
    return size / (time.perf_counter() - began)


def main() -> None:
    """Print what was measured."""
    endpoint, repo, folder, size = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    import fetchverify
    import fetchverify.commands.get  # imports are the whole process's matter, `startup` has them

    before = _sha256_rate(min(size, 512 * MiB))
    began = time.perf_counter()
    fetchverify.get(repo, endpoint=endpoint, cache_dir=folder)
    engine_s = time.perf_counter() - began
    after = _sha256_rate(min(size, 512 * MiB))
    print(json.dumps({"sha256": (before + after) / 2, "engine": size / engine_s}))


if __name__ == "__main__":
    main()
