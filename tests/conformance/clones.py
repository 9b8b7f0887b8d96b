"""Real git and git-lfs for tests: their environment, clones with and without content."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mock_server import FileValue, KiB, MiB, MockHub, Seeded

LARGE, SMALL = Seeded(20 * MiB, "large"), Seeded(30 * KiB, "small")
AWKWARD = 'a "quoted" name/ünï [x] *.bin'
FILES: dict[str, FileValue | None] = {
    "config.json": b'{"a": 1}\n',
    "large.safetensors": LARGE,
    "twin.bin": SMALL,
    "sub/small.bin": SMALL,
    AWKWARD: Seeded(40 * KiB, "awkward"),
}
CONTENT = {path: value for path, value in FILES.items() if isinstance(value, Seeded)}


class Shell:
    """Runs commands in an environment of its own: no configuration, cache or token of whoever runs the tests."""

    def __init__(self, home: Path, hub: MockHub) -> None:
        for tool in ("git", "git-lfs"):
            if shutil.which(tool) is None:
                pytest.skip(f"`{tool}` is not installed")
        home.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "GIT_"))}
        self.home = home
        self.hub = hub
        self.env = kept | {
            "PATH": str(Path(sys.executable).parent) + os.pathsep + kept.get("PATH", ""),
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.endpoint,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C.UTF-8",
        }
        self("git", "lfs", "install", "--skip-repo", cwd=home)
        self("git", "config", "--global", "user.name", "mock", cwd=home)
        self("git", "config", "--global", "user.email", "mock@example.org", cwd=home)

    def __call__(
        self, *argv: str, cwd: Path, code: int | None = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return it ended; `code` is what it has to exit with, None allows any."""
        done = subprocess.run(
            argv, cwd=cwd, env=self.env | (env or {}), capture_output=True, text=True, timeout=120, check=False
        )
        assert code in (None, done.returncode), f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def clone(self, url: str, to: Path, *more: str, content: bool = False) -> Path:
        """Return a clone; its LFS files are pointers unless `content`."""
        env = {} if content else {"GIT_LFS_SKIP_SMUDGE": "1"}
        self("git", *more, "clone", "-q", url, str(to), cwd=to.parent, env=env)
        return to

    def ours(
        self, *arguments: str, cwd: Path, code: int | None = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run fetchverify."""
        return self(sys.executable, "-m", "fetchverify", *arguments, cwd=cwd, code=code, env=env)

    def report(self, *arguments: str, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> Any:
        """Run fetchverify and return the last line of its JSON."""
        done = self.ours(*arguments, "--json", "-q", cwd=cwd, code=code, env=env)
        return json.loads(done.stdout.splitlines()[-1])

    def status(self, clone: Path) -> str:
        """Return what `git status` has to say about a clone; nothing where all is as committed."""
        return self("git", "status", "--porcelain", cwd=clone).stdout


def stored(clone: Path) -> list[Path]:
    """Return the contents in a clone's LFS store; unfinished ones too, pointers not."""
    found = (path for path in (clone / ".git" / "lfs").rglob("*") if path.is_file())
    return sorted(path for path in found if path.stat().st_size > 1024)


def is_filled(clone: Path, *paths: str) -> bool:
    """Return whether files (all where none is named) hold their content."""
    wanted = paths or tuple(CONTENT)
    return all(CONTENT[path].read(0, CONTENT[path].size) == (clone / path).read_bytes() for path in wanted)


def outcomes(told: Any) -> dict[str, str]:
    """Return how each file of a report ended."""
    return {outcome["path"]: outcome["kind"] for outcome in told["outcomes"]}
