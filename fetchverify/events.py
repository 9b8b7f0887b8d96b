"""What a run tells while it goes on; frozen, JSON-able, emitted on the event loop's thread only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; `kind` is the class name in JSON."""

    def as_json(self) -> dict[str, Any]:
        """Return the event as a JSON object with its `kind`."""
        return {"kind": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Event):
    """The revision was resolved: what will be looked at."""

    repo_id: str
    revision: str
    commit: str
    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """What the run will do; sizes in bytes."""

    files: int
    files_kept: int
    files_linked: int
    files_to_fetch: int
    size: int
    bytes_to_fetch: int
    bytes_landed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStarted(Event):
    """Work on a file began; `landed` bytes were there already from an earlier run."""

    path: str
    size: int
    landed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """How far one file is, in bytes from its start: received (all blocks) and verified (the hash frontier)."""

    path: str
    received: int
    verified: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFinished(Event):
    """A file's end; `outcome` is an `core.report.OutcomeKind` value, `fetched` the bytes that came over the network."""

    path: str
    size: int
    outcome: str
    fetched: int
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlanned(Event):
    """Files that lie on disk are going to be read; `size` in bytes."""

    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditProgress(Event):
    """How many files, and bytes of all of them, were read so far."""

    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Event):
    """Something failed and is tried again after `wait_s` seconds."""

    path: str | None
    reason: str
    attempt: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """The run waits for somebody else: a lock's holder, a rate limit.

    `wait_s` is how long it will take; None where nobody knows, as with locks. `waited_s` is how long it took so far.
    """

    what: str
    wait_s: float | None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """A sentence for people."""

    level: Literal["debug", "info", "warning"]
    message: str


Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop the event: the sink of those who do not listen."""
