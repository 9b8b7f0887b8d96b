"""`mirror status`: what the last runs left, from the mirror's own book; asks nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fetchverify.commands.mirror.places import CachePlace, FolderPlace, quarantined
from fetchverify.commands.mirror.setting import load
from fetchverify.core.mirrorstate import RepoState
from fetchverify.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One revision.

    Attributes:
        asked_for: the config still names it.
        lag_s: seconds since what lies here was last known to be what the Hub has; None for never.
        quarantined: bad copies of the repo that lie in quarantine.
    """

    state: RepoState
    asked_for: bool
    lag_s: float | None
    quarantined: int

    @property
    def word(self) -> str:
        """How it stands, in a word."""
        state = self.state
        if state.damaged:
            return "damaged"
        if state.gone_since:
            return "gone"
        if state.failures:
            return "failing"
        if not self.asked_for:
            return "left over"
        return "fresh" if state.commit is not None else "new"

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        more = {"status": self.word, "asked_for": self.asked_for, "lag_s": self.lag_s, "quarantined": self.quarantined}
        return {**self.state.as_json(), **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """Every revision that the mirror knows, by name."""

    folder: str
    rows: tuple[Row, ...]

    @property
    def exit_code(self) -> ExitCode:
        """1 where a revision fails or is damaged."""
        bad = any(row.word in ("damaged", "failing") for row in self.rows)
        return ExitCode.FINDINGS if bad else ExitCode.CLEAN

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        rows = [row.as_json() for row in self.rows]
        return {"kind": "StatusReport", "exit_code": int(self.exit_code), "folder": self.folder, "repos": rows}


def look(config: Path, clock: Callable[[], float] = time.time) -> StatusReport:
    """Return how the mirror stands.

    Raises:
        UsageError: the config is not valid.
    """
    setting = load(config)
    now = clock()
    entries = setting.config.entries
    named = {(entry.kind, entry.author or entry.repo_id) for entry in entries}
    rows = []
    for state in setting.book.load().values():
        ref = state.ref
        place = (CachePlace if setting.config.layout == "cache" else FolderPlace)(setting.disk, setting.folder, ref)
        rows.append(
            Row(
                state=state,
                asked_for=bool({(ref.kind, ref.repo_id), (ref.kind, ref.repo_id.split("/")[0])} & named),
                lag_s=max(0.0, now - state.succeeded) if state.succeeded else None,
                quarantined=quarantined(setting.disk, place, state.commit),
            )
        )
    ordered = sorted(rows, key=lambda row: (row.state.ref.kind, row.state.ref.repo_id, row.state.ref.revision))
    return StatusReport(folder=str(setting.folder), rows=tuple(ordered))
