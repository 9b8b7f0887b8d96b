"""The hub client's own command line, run in this process: a hundred runs cost less than ten of `hf` itself."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

from click.testing import CliRunner
from huggingface_hub import constants


def hf(*words: str | Path, endpoint: str = "http://127.0.0.1:9") -> tuple[int, str]:
    """Run `hf` and return its exit code and what it printed."""
    from huggingface_hub.cli.hf import app

    with mock.patch.object(constants, "ENDPOINT", endpoint):
        done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout  # a traceback is exit code 1


def listed(cache: Path) -> list[str]:
    """Return the repos that `hf cache ls` lists, as `model/org/name`; none where it dies of what it meets."""
    code, out = hf("cache", "ls", "--cache-dir", cache, "--format", "json")
    return [entry["id"] for entry in json.loads(out)] if code == 0 else []


def verified(cache: Path, repo: str, endpoint: str, kind: str = "model") -> tuple[int, str]:
    """Return how `hf cache verify` ends, told to mind missing files, too."""
    words = ("cache", "verify", repo, "--repo-type", kind, "--cache-dir", cache, "--fail-on-missing-files")
    return hf(*words, endpoint=endpoint)
