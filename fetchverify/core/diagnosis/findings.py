"""What a diagnosis says: findings with stable codes, and the whole of them with its exit code; words are in `codes`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fetchverify.errors import ExitCode


class Severity(Enum):
    """How grave a finding is; only errors make the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found.

    Attributes:
        code: stable, `FV108`; `codes.RULES` holds its title and text.
        path: the file or folder, as the user would name it below the place that was looked at.
        seen: what was seen.
        why: why it matters, in one line.
        remedy: what to do, commands in backticks.
    """

    code: str
    severity: Severity
    path: str
    seen: str
    why: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """Return the finding as one JSON object."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "path": self.path,
            "seen": self.seen,
            "why": self.why,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a folder's files came from, for the commands in remedies.

    Attributes:
        repo_id: where known, else None.
        revision: a commit, where known.
        to: the plain folder; None in the cache.
    """

    repo_id: str | None = None
    revision: str | None = None
    to: str | None = None

    def get(self, *paths: str) -> str:
        """Return the command that fetches these files again."""
        words = ["fetchverify", "get", self.repo_id or "REPO_ID"]
        globs = any("*" in path for path in paths)
        names = [shlex.quote(path) for path in paths]
        options = ["--revision", self.revision] if self.revision is not None else []
        options += ["--to", shlex.quote(self.to)] if self.to is not None else []
        if globs:
            for name in names:
                words += ["--include", name]
        elif any(path.startswith("-") for path in paths):
            options += ["--", *names]
        else:
            words += names
        return " ".join(words + options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One folder (or file) that was recognised: its path below the place looked at, and its layout's name."""

    path: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was looked at, and all that was found.

    Attributes:
        checked: what was checked, a phrase each.
        unchecked: what could not be, and why, a phrase each.
        serves: with `--for`, whether the folder can serve that use; None without.
    """

    target: str
    places: tuple[Place, ...]
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...] = ()
    serves: bool | None = None
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 where there is an error, else 0."""
        broken = any(finding.severity is Severity.ERROR for finding in self.findings)
        return ExitCode.FINDINGS if broken else ExitCode.CLEAN

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as one JSON object."""
        return {
            "kind": "Diagnosis",
            "exit_code": int(self.exit_code),
            "target": self.target,
            "places": [{"path": place.path, "layout": place.layout} for place in self.places],
            "findings": [finding.as_json() for finding in self.findings],
            "checked": list(self.checked),
            "unchecked": list(self.unchecked),
            "serves": self.serves,
            "seconds": self.seconds,
        }
