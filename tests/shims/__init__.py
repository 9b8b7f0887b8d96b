"""System calls that answer as other machines' do, put in front of a child process by LD_PRELOAD; needs a C compiler."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


def compiler() -> str | None:
    """Return the C compiler, or None where shims cannot be built."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


def preload(name: str) -> dict[str, str]:
    """Return the environment that puts `NAME.c` in front of the C library; skips where there is no compiler."""
    if compiler() is None:
        pytest.skip("needs a C compiler (`cc`) on Linux")
    return {"LD_PRELOAD": str(_built(name))}


@functools.cache
def _built(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="shims-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [compiler() or "cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    library.chmod(0o755)
    folder.chmod(0o755)  # other users load it, too
    return library
