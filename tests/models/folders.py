"""The committed folders that real libraries wrote (see `make.py`), and copies of them to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent
HEALTHY = tuple(sorted(path.name for path in HERE.iterdir() if path.is_dir() and not path.name.startswith("__")))


def copy(name: str, to: Path) -> Path:
    """Return a writable copy of a folder, under `to` and its own name."""
    return Path(shutil.copytree(HERE / name, to / name))
