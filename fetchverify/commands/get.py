"""`get`: resolve, observe, plan, transfer, report."""

from __future__ import annotations

import importlib
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio.to_thread

from fetchverify import events
from fetchverify.core.manifest import Manifest, RemoteFile, RepoKind, RepoPath, RepoRef
from fetchverify.core.paths import WEIGHT_ENDINGS, case_collisions
from fetchverify.core.plan import Plan, Seen, plan_fetch
from fetchverify.core.reference import parse_reference
from fetchverify.core.report import Outcome, OutcomeKind, Report
from fetchverify.core.retry import PATIENT, patience
from fetchverify.core.select import select
from fetchverify.errors import AbsentError, DiskError, ExitCode
from fetchverify.net.hub import Hub
from fetchverify.net.wire import Endpoint
from fetchverify.store.casefold import folds_case
from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import forbidden
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache
from fetchverify.store.layout import Layout

if TYPE_CHECKING:
    from fetchverify.core.diagnosis.findings import Finding
    from fetchverify.core.pins import Pin
    from fetchverify.engine.run import TransferOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOptions:
    """What `fetchverify get` was asked for; None means "as the hub client does".

    Attributes:
        endpoint: the first one is trusted for metadata and sees the token; bytes may come from any.
        pin: what the Hub is held to; `repo` then names the same repo.
        doctor: look at the headers of a model's weights, and say what is broken in the repo itself.
    """

    repo: str
    pin: Pin | None = None
    files: tuple[str, ...] = ()
    repo_type: RepoKind | None = None
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    to: Path | None = None
    cache_dir: Path | None = None
    endpoint: str | tuple[str, ...] | None = None
    layout: Literal["hf", "original"] | None = None
    token: str | None = None
    connections: int = 16
    limit_rate: int | None = None
    offline: bool = False
    dry_run: bool = False
    force: bool = False
    retries: int = PATIENT.attempts
    lock_timeout_s: float | None = None
    doctor: bool = True


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
    began = time.monotonic()
    endpoint, *mirrors = Endpoint.several(options.endpoint, options.token)
    places = tuple(each.place for each in (endpoint, *mirrors))
    reference = parse_reference(options.repo, kind=options.repo_type, revision=options.revision, hosts=places)
    disk = Disk()
    layout = _layout(options, reference.ref, disk)
    if options.pin is None:
        manifest, requests = await _manifest(options, endpoint, reference.ref, layout, emit)
    else:
        manifest, requests = await _pinned(options, options.pin, endpoint, layout, emit)
    names = options.files if reference.path is None else (reference.path, *options.files)
    selection = select(
        manifest.files, names=names, include=options.include, exclude=options.exclude, layout=options.layout
    )
    if selection.note is not None:
        emit(events.Note(level="info", message=selection.note))
    files, size = selection.files, sum(file.size for file in selection.files)
    emit(
        events.Resolved(
            repo_id=manifest.ref.repo_id,
            revision=manifest.ref.revision,
            commit=manifest.commit,
            files=len(files),
            size=size,
        )
    )
    seen = await anyio.to_thread.run_sync(_observe, layout, manifest, files)
    plan = plan_fetch(files, seen, copies_cost_space=layout.copies_cost_space, force=options.force)
    del seen  # of 100,000 files it is 10 MiB, and what follows takes its time
    emit(planned(plan, len(files), size))
    if options.dry_run:
        return to_dry_run(plan, manifest, layout.target)
    if not options.offline:
        preflight(plan, disk, layout.area)
    try:
        await anyio.to_thread.run_sync(layout.begin, manifest)
    except DiskError as refused:
        if plan.links or plan.fetches or not forbidden(refused):
            raise
        # Another user's cache, or a read-only one, with all that was asked for: it can be proved without writing.
        emit(events.Note(level="debug", message=f"what is proved here cannot be noted: {refused.message}"))
    from fetchverify.engine.transfer import Transfer

    transfer = Transfer(
        manifest=manifest,
        layout=layout,
        disk=disk,
        endpoint=endpoint,
        options=_transfer_options(options),
        emit=emit,
        mirrors=mirrors,
    )
    changed = not plan.changes_nothing
    execution = transfer.execute(plan)
    del plan  # what is fetched is let go of, file by file
    try:
        outcomes = await execution
    except DiskError as error:
        if error.full:
            raise await anyio.to_thread.run_sync(_with_what_is_missing, error, layout, manifest, files, disk) from error
        raise
    published = not any(outcome.kind.exit_code for outcome in outcomes)
    if published:
        await anyio.to_thread.run_sync(layout.finish, manifest)
    return Report(
        repo_id=manifest.ref.repo_id,
        kind=manifest.ref.kind,
        revision=manifest.ref.revision,
        commit=manifest.commit,
        target=str(layout.target),
        outcomes=outcomes,
        bytes_fetched=transfer.run.bytes_fetched,
        seconds=round(time.monotonic() - began, 3),
        requests=requests + (transfer.run.requests),
        retries=transfer.run.retries,
        quarantined=transfer.publisher.quarantined,
        changed=changed,
        published=published,
        liars=transfer.run.suppliers.liars,
        findings=await _broken_there(options, layout.target, manifest, outcomes),
    )


async def _broken_there(
    options: GetOptions, target: Path, manifest: Manifest, outcomes: tuple[Outcome, ...]
) -> tuple[Finding, ...]:
    """Return what is broken in the repo itself; its bytes were proved, so getting them again would not help."""
    if not options.doctor or manifest.ref.kind != "model":
        return ()
    # What lay there before was said when it was published.
    published = [
        outcome.path
        for outcome in outcomes
        if outcome.path.endswith(WEIGHT_ENDINGS)
        and outcome.kind.exit_code is ExitCode.CLEAN
        and outcome.kind is not OutcomeKind.KEPT
    ]
    if not published:
        return ()
    # Imported only here: it knows every format of weights.
    from fetchverify.engine.examine import broken_weights

    return await anyio.to_thread.run_sync(broken_weights, target, published, abandon_on_cancel=True)


def _layout(options: GetOptions, ref: RepoRef, disk: Disk) -> Layout:
    from huggingface_hub import constants

    cache_dir = (options.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
    cache = HubCache.for_repo(disk, cache_dir, ref.kind, ref.repo_id)
    if options.to is None:
        return cache
    return Folder(disk, options.to.expanduser().absolute(), cache=cache)


async def _manifest(
    options: GetOptions, endpoint: Endpoint, ref: RepoRef, layout: Layout, emit: events.Emit
) -> tuple[Manifest, int]:
    """Return the manifest and how many requests it took."""
    if options.offline:
        return _manifest_offline(ref, layout), 0
    # A tenth of a second of imports, in the time that the Hub takes to answer.
    threading.Thread(target=_import_engine, daemon=True).start()
    async with Hub(endpoint, emit=emit, connections=options.connections, patience=patience(options.retries)) as hub:
        manifest = await hub.manifest(ref, cached_tree=layout.read_tree)
        return manifest, hub.requests


async def _pinned(
    options: GetOptions, pin: Pin, endpoint: Endpoint, layout: Layout, emit: events.Emit
) -> tuple[Manifest, int]:
    """Return what was pinned, after the Hub (or its listing on this disk) was held to it."""
    from fetchverify.core.pins import hold_to

    ref = replace(pin.ref, revision=pin.commit)
    if options.offline:
        files = layout.read_tree(pin.commit)
        return pin.manifest if files is None else hold_to(pin, replace(pin.manifest, files=files)), 0
    manifest, requests = await _manifest(options, endpoint, ref, layout, emit)
    return hold_to(pin, manifest), requests


def _manifest_offline(ref: RepoRef, layout: Layout) -> Manifest:
    commit = layout.read_ref(ref.revision)
    if commit is None:
        raise AbsentError(
            f"`{ref.repo_id}` at `{ref.revision}` is not on this disk, and the network may not be asked",
            hint="run it once without `--offline` (or `HF_HUB_OFFLINE`)",
        )
    files = layout.read_tree(commit)
    if files is None:
        raise AbsentError(
            f"what `{ref.repo_id}` promises at commit `{commit}` is not on this disk, and the network may not be asked",
            hint="run it once without `--offline` (or `HF_HUB_OFFLINE`)",
        )
    return Manifest(ref=ref, commit=commit, files=files)


def _import_engine() -> None:
    with suppress(Exception):  # whoever needs it meets the error
        importlib.import_module("fetchverify.engine.transfer")


def _transfer_options(options: GetOptions) -> TransferOptions:
    from fetchverify.engine.run import TransferOptions

    return TransferOptions(
        connections=options.connections,
        limit_rate=options.limit_rate,
        patience=patience(options.retries),
        lock_timeout_s=options.lock_timeout_s,
        offline=options.offline,
        force=options.force,
    )


def _observe(layout: Layout, manifest: Manifest, files: tuple[RemoteFile, ...]) -> dict[RepoPath, Seen]:
    """Return what lies on disk; paths that this disk takes for one another can none of them be written."""
    seen = dict(layout.observe(manifest, files))
    collisions = case_collisions(files)
    if collisions and folds_case(layout.target):
        for group in collisions:
            for path in group:
                others = ", ".join(f"`{other}`" for other in group if other != path)
                seen[path] = replace(seen.get(path, Seen()), obstacle=f"this disk takes it for {others}")
    return seen


def planned(plan: Plan, files: int, size: int) -> events.Planned:
    """Return what to tell of a plan for so many files and bytes."""
    return events.Planned(
        files=files,
        files_kept=len(plan.keeps),
        files_linked=len(plan.links),
        files_to_fetch=sum(len(fetch.files) for fetch in plan.fetches),
        size=size,
        bytes_to_fetch=plan.bytes_to_fetch,
        bytes_landed=sum(fetch.landed for fetch in plan.fetches),
    )


def to_dry_run(plan: Plan, manifest: Manifest, target: Path) -> DryRun:
    """Return a plan as the user reads it."""
    actions: list[tuple[RemoteFile, str]] = [(keep.file, "keep") for keep in plan.keeps]
    actions += [(link.file, "copy" if plan.copies_cost_space else "link") for link in plan.links]
    for fetch in plan.fetches:
        actions += [(file, "resume" if fetch.landed else "fetch") for file in fetch.files]
    actions += [(refusal.file, "refuse") for refusal in plan.refusals]
    return DryRun(
        repo_id=manifest.ref.repo_id,
        revision=manifest.ref.revision,
        commit=manifest.commit,
        target=str(target),
        files=tuple(sorted((file.path, file.size, action) for file, action in actions)),
        bytes_to_fetch=plan.bytes_to_fetch,
        bytes_free_needed=plan.bytes_free_needed,
    )


def preflight(plan: Plan, disk: Disk, area: Path) -> None:
    """Refuse before the first byte what the disk cannot hold.

    Raises:
        DiskError: with what is needed, what is free and what is missing, in bytes.
    """
    free = disk.free_bytes(area)
    if plan.bytes_free_needed > free:
        raise DiskError(
            f"the disk of `{area.parent}` has {free} bytes free, {plan.bytes_free_needed} are needed: "
            f"{plan.bytes_free_needed - free} bytes are missing",
            hint="free that much, or choose another place with `--to DIR` or `--cache-dir DIR`",
        )


def _with_what_is_missing(
    error: DiskError, layout: Layout, manifest: Manifest, files: tuple[RemoteFile, ...], disk: Disk
) -> DiskError:
    """Return the error of a full disk with what the rest of the run needs: what to free is the next question."""
    try:
        plan = plan_fetch(files, _observe(layout, manifest, files), copies_cost_space=layout.copies_cost_space)
        free = disk.free_bytes(layout.area)
    except DiskError:
        return error
    needed = plan.bytes_free_needed
    if not needed:  # a link that this disk can only copy; the error itself says how large
        return error
    rest = f"the rest of the run needs {needed} bytes"
    # Where there is a quota, more may be free than this user can have.
    if needed > free:
        rest += f", {free} are free: {needed - free} bytes are missing"
    return DiskError(f"{error.message}; {rest}", hint=error.hint, full=True)
