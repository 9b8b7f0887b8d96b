"""Whether a disk takes `README.md` and `readme.md` for the same name, found by trying."""

from __future__ import annotations

import tempfile
from pathlib import Path


def folds_case(path: Path) -> bool:
    """Return whether names below `path` (which need not exist) ignore case; False where nothing may be written."""
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".fv-case-") as probe:
            made = Path(probe.name)
            return made.with_name(made.name.swapcase()).exists()
    except OSError:
        return False
