"""Which packages and GPUs this machine has, without importing or asking any of them."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

from fetchverify.core.diagnosis.trainconfig import Machine

PACKAGES = ("transformers", "peft", "accelerate", "deepspeed", "safetensors", "torch")


def machine() -> Machine:
    """Return what is here."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Machine(gpus=_gpus(), versions=versions)


def python() -> str:
    """Return the interpreter whose packages were looked at."""
    return f"{sys.version.split()[0]} at {sys.executable}"


def _gpus() -> int | None:
    """Return how many GPUs processes may use; None where none is seen."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and re.fullmatch(r"\d+(,\d+)*", visible):
        return len(visible.split(","))
    try:
        return sum(1 for one in Path("/dev").iterdir() if re.fullmatch(r"nvidia\d+", one.name)) or None
    except OSError:
        return None
