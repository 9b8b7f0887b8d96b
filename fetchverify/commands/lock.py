"""`lock`: which commit a repo is at, and what every file of it is, into a file; `get --locked` holds the Hub to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread

from fetchverify import events
from fetchverify.core.manifest import RepoKind, RepoRef
from fetchverify.core.pins import Move, Pin, differences
from fetchverify.core.reference import parse_reference
from fetchverify.core.retry import PATIENT, patience
from fetchverify.errors import UsageError
from fetchverify.net.hub import Hub
from fetchverify.net.wire import Endpoint
from fetchverify.store.disk import Disk
from fetchverify.store.pinfile import read_pins, write_pins


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOptions:
    """What `fetchverify lock` was asked for.

    Attributes:
        repos: as typed; with `update`, those to move, all where empty.
        update: ask again for what is pinned already.
        dry_run: tell, and write nothing.
    """

    repos: tuple[str, ...]
    output: Path
    repo_type: RepoKind | None = None
    revision: str | None = None
    update: bool = False
    dry_run: bool = False
    endpoint: str | None = None
    token: str | None = None
    connections: int = 16
    retries: int = PATIENT.attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class LockReport:
    """What became of the pins that were named, in the file's order.

    Attributes:
        written: the file changed.
    """

    output: str
    moves: tuple[Move, ...]
    written: bool

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        moves = [move.as_json() for move in self.moves]
        return {"kind": "LockReport", "exit_code": 0, "output": self.output, "moves": moves, "written": self.written}


async def run(options: LockOptions, emit: events.Emit) -> LockReport:
    """Pin repos to what the Hub promises now.

    Raises:
        FetchverifyError: a repo could not be looked up; the file is as it was.
    """
    endpoint = Endpoint.from_environment(options.endpoint, options.token)
    pinned = await anyio.to_thread.run_sync(_pinned, options)
    named = [
        parse_reference(repo, kind=options.repo_type, revision=options.revision, hosts=(endpoint.place,)).ref
        for repo in options.repos
    ]
    if not named and not options.update:
        raise UsageError("no repo was named", hint="type `fetchverify lock org/name`, or `--update` for all")
    if options.update:
        _check_pinned(named, pinned, options.output)
    moves: dict[RepoRef, Move] = {}
    async with Hub(endpoint, emit=emit, connections=options.connections, patience=patience(options.retries)) as hub:
        for ref in dict.fromkeys(named or pinned):
            before = pinned.get(ref)
            if before is not None and not options.update:
                moves[ref] = Move(ref=ref, before=before.commit, after=before.commit)
                continue
            now = Pin.of(await hub.manifest(ref))
            changes = () if before is None else differences(before.files, now.files)
            moves[ref] = Move(
                ref=ref, before=None if before is None else before.commit, after=now.commit, changes=changes
            )
            pinned[ref] = now
    written = False
    if not options.dry_run:
        written = await anyio.to_thread.run_sync(write_pins, Disk(), options.output, tuple(pinned.values()))
    return LockReport(output=str(options.output), moves=tuple(moves.values()), written=written)


def _pinned(options: LockOptions) -> dict[RepoRef, Pin]:
    if not options.output.exists() and not options.update:
        return {}
    return {pin.ref: pin for pin in read_pins(options.output)}


def _check_pinned(named: list[RepoRef], pinned: dict[RepoRef, Pin], output: Path) -> None:
    for ref in named:
        if ref not in pinned:
            raise UsageError(
                f"`{output}` does not pin the {ref.kind} `{ref.repo_id}` at `{ref.revision}`",
                hint="without `--update` it is added",
            )
