"""`get`: resolve, observe, plan, transfer, report."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from fetchverify import events
from fetchverify.core.manifest import Manifest, RemoteFile, RepoKind, RepoRef
from fetchverify.core.paths import case_collisions
from fetchverify.core.plan import Plan, plan_fetch
from fetchverify.core.reference import Reference, parse_reference
from fetchverify.core.report import Outcome, OutcomeKind, Report
from fetchverify.core.select import select
from fetchverify.engine.transfer import Transfer, TransferOptions
from fetchverify.errors import AbsentError, DiskError, FetchverifyError, UsageError
from fetchverify.net.hub import Hub
from fetchverify.net.wire import Endpoint
from fetchverify.store.disk import Disk
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache
from fetchverify.store.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOptions:
    """What `fetchverify get` was asked for; None means "as the hub client does"."""

    repo: str
    files: tuple[str, ...] = ()
    repo_type: RepoKind | None = None
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    to: Path | None = None
    cache_dir: Path | None = None
    endpoint: str | None = None
    layout: Literal["hf", "original"] | None = None
    token: str | None = None
    connections: int = 16
    limit_rate: int | None = None
    offline: bool = False
    dry_run: bool = False
    force: bool = False
    lock_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would do; `files` are `(path, size, action)`, sizes in bytes."""

    repo_id: str
    revision: str
    commit: str
    target: str
    files: tuple[tuple[str, int, str], ...]
    bytes_to_fetch: int
    bytes_free_needed: int

    def as_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object."""
        body = asdict(self)
        body["files"] = [{"path": path, "size": size, "action": action} for path, size, action in self.files]
        return {"kind": "DryRun", **body}


async def run(options: GetOptions, emit: events.Emit) -> Report | DryRun:
    """Download what the options select, or say what that would take.

    Raises:
        FetchverifyError: the run could not go on; partials are kept.
    """
    try:
        return await _run(options, emit)
    except BaseExceptionGroup as group:
        raise _gravest(group) from group


async def _run(options: GetOptions, emit: events.Emit) -> Report | DryRun:
    began = time.monotonic()
    endpoint = Endpoint.from_environment(options.endpoint, options.token)
    reference = parse_reference(
        options.repo, kind=options.repo_type, revision=options.revision, endpoint_hosts=(endpoint.host,)
    )
    disk = Disk()
    layout = _layout(options, reference.ref, disk)
    manifest, requests = await _manifest(options, endpoint, reference.ref, layout, emit)
    names = options.files if reference.path is None else (reference.path, *options.files)
    selection = select(
        manifest.files, names=names, include=options.include, exclude=options.exclude, layout=options.layout
    )
    if selection.note is not None:
        emit(events.Note(level="info", message=selection.note))
    files = selection.files
    emit(
        events.Resolved(
            repo_id=manifest.ref.repo_id,
            revision=manifest.ref.revision,
            commit=manifest.commit,
            files=len(files),
            size=sum(file.size for file in files),
        )
    )
    seen = await anyio.to_thread.run_sync(layout.observe, manifest, files)
    plan = plan_fetch(files, seen, copies_cost_space=layout.copies_cost_space, force=options.force)
    emit(_planned(plan, len(files), sum(file.size for file in files)))
    if options.dry_run:
        return _dry_run(plan, manifest, layout)
    _preflight(plan, disk, layout)
    if options.offline and plan.fetches:
        outcomes, transfer = _absent_offline(plan), None
    else:
        await anyio.to_thread.run_sync(layout.begin, manifest)
        transfer = Transfer(
            manifest=manifest,
            layout=layout,
            disk=disk,
            endpoint=endpoint,
            options=TransferOptions(
                connections=options.connections,
                limit_rate=options.limit_rate,
                lock_timeout_s=options.lock_timeout_s,
            ),
            emit=emit,
        )
        outcomes = await transfer.execute(plan)
    published = not any(outcome.kind.exit_code for outcome in outcomes)
    if published:
        await anyio.to_thread.run_sync(layout.finish, manifest)
    return Report(
        repo_id=manifest.ref.repo_id,
        kind=manifest.ref.kind,
        revision=manifest.ref.revision,
        commit=manifest.commit,
        target=str(layout.target(manifest)),
        outcomes=outcomes,
        bytes_fetched=transfer.bytes_fetched if transfer else 0,
        seconds=round(time.monotonic() - began, 3),
        requests=requests + (transfer.requests if transfer else 0),
        retries=transfer.retries if transfer else 0,
        quarantined=transfer.quarantined if transfer else 0,
        changed=not plan.changes_nothing,
        published=published,
    )
