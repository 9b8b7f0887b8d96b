"""A mirror of a mock Hub for tests: its runs at a time of their choice, and what its readers see."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from fetchverify import events
from fetchverify.commands.mirror import proving, sync
from fetchverify.commands.mirror.status import look
from fetchverify.core.mirrored import Fate, SyncReport
from mock_server import MockHub
from mock_server.world import Commit, Kind

NOON = 1_800_000_000.0  # Friday, 15 January 2027, 08:00:00 UTC
HOUR, DAY = 3600.0, 86400.0


class Mirror:
    """A mirror of a mock Hub, and its clock."""

    def __init__(self, hub: MockHub, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.layout = "cache"
        self.now = NOON
        self.said: list[events.Event] = []
        self.config = folder / "mirror.toml"
        self.write('[[repo]]\nid = "org/one"')

    @property
    def root(self) -> Path:
        return self.folder / "mirror"

    def write(self, entries: str, more: str = "") -> None:
        self.folder.mkdir(exist_ok=True)
        head = f'folder = "mirror"\nlayout = "{self.layout}"\nendpoints = ["{self.hub.endpoint}"]\n'
        self.config.write_text(f"{head}{more}\n{entries}\n")

    def sync(self, **options: Any) -> SyncReport:
        chosen = sync.SyncOptions(config=self.config, clock=lambda: self.now, **options)
        return anyio.run(sync.run, chosen, self.said.append)

    def verify(self, **options: Any) -> proving.ProveReport:
        chosen = proving.ProveOptions(config=self.config, clock=lambda: self.now, **options)
        return anyio.run(proving.run, chosen, self.said.append)

    def fates(self, **options: Any) -> dict[str, Fate]:
        return {one.ref.repo_id: one.fate for one in self.sync(**options).done}

    def seen(self, repo_id: str = "org/one", revision: str = "main", kind: Kind = "model") -> dict[str, bytes]:
        """Return what a reader finds."""
        if self.layout == "cache":
            base = self.root / f"{kind}s--{repo_id.replace('/', '--')}"
            path = base / "snapshots" / (base / "refs" / revision).read_text()
        else:
            path = self.root / ("" if kind == "model" else f"{kind}s") / repo_id / revision
        found = {}
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if name not in (".fetchverify", ".cache")]
            for name in names:
                file = Path(folder) / name
                found[str(file.relative_to(path))] = file.read_bytes()
        return found

    def source(self, repo_id: str = "org/one", revision: str = "main", kind: Kind = "model") -> dict[str, bytes]:
        """Return what the Hub holds."""
        return content_of(self.hub.world.repo(repo_id, kind).head(revision))

    def states(self) -> dict[str, dict[str, Any]]:
        return {row.state.ref.repo_id: row.as_json() for row in look(self.config, lambda: self.now).rows}


def content_of(commit: Commit) -> dict[str, bytes]:
    """Return all bytes of a commit, by path."""
    return {path: b"".join(file.content.pieces(0, file.size)) for path, file in commit.files.items()}
