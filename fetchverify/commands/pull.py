"""`pull` (and `get .`): what `git lfs pull` does, by our engine; pointers become proved content, git sees no change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread

from fetchverify import events
from fetchverify.commands.get import DryRun, planned, preflight, to_dry_run
from fetchverify.core.gitglob import split_patterns, wanted
from fetchverify.core.gitremote import (
    Config,
    HttpServer,
    LocalServer,
    Server,
    SshServer,
    choose_remote,
    parse_server,
    setting,
)
from fetchverify.core.manifest import Commit, Digest, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.core.paths import MOST_SIZE, check_path, shown
from fetchverify.core.plan import Seen, plan_fetch
from fetchverify.core.report import Outcome, OutcomeKind, Report
from fetchverify.core.retry import PATIENT, patience
from fetchverify.core.select import select
from fetchverify.engine.audit import Auditor
from fetchverify.engine.run import TransferOptions
from fetchverify.engine.transfer import Transfer
from fetchverify.errors import ExitCode, UntrustedMetadataError, ungrouped
from fetchverify.net.lfs import LfsLocator, Nowhere
from fetchverify.net.lfsauth import Access
from fetchverify.net.transport import Locator
from fetchverify.net.wire import Endpoint
from fetchverify.store.clone import Clone, Entry, lfs_stores
from fetchverify.store.disk import Disk
from fetchverify.store.settle import ForeignIndexError, LfsStore, Stored, StoreMode, refresh_index
from fetchverify.store.worktree import CHANGED, WorkTree

_NO_COMMIT = "0" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    """What `fetchverify pull` was asked for.

    Attributes:
        path: a clone, or a folder in one.
        files: paths, folders or globs below it.
        remote: by its name in the clone; None as git-lfs chooses.
        references: other clones whose LFS stores may hold what is missing.
        store: how contents reach git-lfs's own store.
    """

    path: Path
    files: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    remote: str | None = None
    references: tuple[Path, ...] = ()
    store: StoreMode = "reflink"
    cache_dir: Path | None = None
    endpoint: str | None = None
    token: str | None = None
    connections: int = 16
    limit_rate: int | None = None
    offline: bool = False
    dry_run: bool = False
    retries: int = PATIENT.attempts
    lock_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A clone as it is: what it wants, and where from."""

    clone: Clone
    config: Config
    lfsconfig: Config
    branch: str | None
    manifest: Manifest
    entries: dict[RepoPath, Entry]
    refused: tuple[Outcome, ...]
    notes: tuple[str, ...]
    server: Server | None


async def run(options: PullOptions, emit: events.Emit) -> Report | DryRun:
    """Fill the pointers of a work tree, or say what that would take.

    Raises:
        FetchverifyError: the run could not go on; partials are kept.
    """
    began = time.monotonic()
    endpoint = Endpoint.from_environment(options.endpoint, options.token)
    look = await anyio.to_thread.run_sync(_look, options)
    disk, manifest = Disk(), look.manifest
    copies, own_store = _copies(options, look)
    tree = WorkTree(
        disk, look.clone, look.entries, copies=copies, linkable=own_store if options.store == "link" else None
    )
    for note in look.notes:
        emit(events.Note(level="warning", message=note))
    files = manifest.files
    emit(
        events.Resolved(
            repo_id=manifest.ref.repo_id,
            revision=manifest.ref.revision,
            commit=manifest.commit,
            files=len(files),
            size=manifest.size,
        )
    )
    seen = await _prove(tree, files, dict(await anyio.to_thread.run_sync(tree.observe, manifest, files)))
    plan = plan_fetch(files, seen, copies_cost_space=True, any_name=True)
    emit(planned(plan, len(files), manifest.size))
    if options.dry_run:
        return to_dry_run(plan, manifest, tree.target)
    if not options.offline:
        preflight(plan, disk, tree.area)
    await anyio.to_thread.run_sync(tree.begin, manifest)
    missing = [fetch.files[0] for fetch in plan.fetches]
    transfer = Transfer(
        manifest=manifest,
        layout=tree,
        disk=disk,
        # The token is not its concern: what may be shown to whom is the locator's.
        endpoint=replace(endpoint, token=None),
        options=_transfer_options(options),
        emit=emit,
        locator=await anyio.to_thread.run_sync(_locator, look, endpoint, missing),
    )
    try:
        outcomes = await transfer.execute(plan)
    except BaseException:
        # What is content by now must not look like a change to git; its store can be filled by the next run.
        with anyio.move_on_after(5, shield=True):
            await anyio.to_thread.run_sync(_settle, replace(options, store="none"), look, tree, disk, own_store, files)
        raise
    await anyio.to_thread.run_sync(tree.finish, manifest)
    good = {outcome.path for outcome in outcomes if outcome.kind.exit_code is ExitCode.CLEAN}
    filled = [file for file in files if file.path in good]
    settled = await anyio.to_thread.run_sync(_settle, options, look, tree, disk, own_store, filled)
    for said in settled:
        emit(said)
    outcomes = tuple(_explained(outcome) for outcome in (*outcomes, *look.refused))
    return Report(
        repo_id=manifest.ref.repo_id,
        kind="clone",
        revision=manifest.ref.revision,
        commit=manifest.commit,
        target=str(tree.target),
        outcomes=outcomes,
        bytes_fetched=transfer.run.bytes_fetched,
        seconds=round(time.monotonic() - began, 3),
        requests=transfer.run.requests,
        retries=transfer.run.retries,
        quarantined=transfer.publisher.quarantined,
        changed=not plan.changes_nothing,
        published=not any(outcome.kind.exit_code for outcome in outcomes),
    )


def _transfer_options(options: PullOptions) -> TransferOptions:
    return TransferOptions(
        connections=options.connections,
        limit_rate=options.limit_rate,
        patience=patience(options.retries),
        lock_timeout_s=options.lock_timeout_s,
        offline=options.offline,
    )


# --- looking -----------------------------------------------------------------------------------------------


def _look(options: PullOptions) -> _Look:
    """Return what the clone wants; asks git, and nobody else."""
    clone = Clone.find(options.path)
    config, lfsconfig = clone.config(), clone.lfsconfig()
    commit, branch = clone.head()
    remote = choose_remote(config, branch=branch, asked=options.remote)
    server = _server(clone, config, lfsconfig, remote, asked=options.remote is not None)
    entries: dict[RepoPath, Entry] = {}
    refused: list[Outcome] = []
    unfiltered = 0
    for entry in clone.pointers():
        if not entry.checked_out:
            continue
        if not entry.filtered:
            unfiltered += 1
            continue
        try:
            path = check_path(entry.path.decode())
        except (UnicodeDecodeError, UntrustedMetadataError):
            refused.append(_refusal(os.fsdecode(entry.path), entry, "its name is none that every disk can hold"))
            continue
        if entry.pointer.size > MOST_SIZE:
            refused.append(
                _refusal(path, entry, f"its pointer promises {entry.pointer.size} bytes, more than any file has")
            )
            continue
        if entry.pointer.extended:
            refused.append(_refusal(path, entry, "an LFS extension would have to change its content"))
            continue
        entries[path] = entry
    files = tuple(entry.pointer.file(path, entry.blob_id) for path, entry in entries.items())
    files = _selected(options, clone, config, lfsconfig, files)
    ref = RepoRef(
        kind="model",
        repo_id=shown(_name_of(server) or clone.root.name),
        revision=branch or commit or "HEAD",
    )
    tree = WorkTree(Disk(), clone, entries)
    there = set(tree.there(file.path for file in files))
    notes = [
        f"the submodule `{shown(path)}` is a clone of its own: `fetchverify pull {shown(path)}`"
        for path in clone.submodules()
    ]
    if unfiltered:
        notes.append(
            f"{unfiltered} pointer{'s are' if unfiltered > 1 else ' is'} left: "
            "no line of `.gitattributes` gives them to git-lfs (`filter=lfs`)"
        )
    return _Look(
        clone=clone,
        config=config,
        lfsconfig=lfsconfig,
        branch=branch,
        manifest=Manifest(
            ref=ref, commit=Commit(commit or _NO_COMMIT), files=tuple(file for file in files if file.path in there)
        ),
        entries=entries,
        refused=tuple(refused),
        notes=tuple(notes),
        server=server,
    )


def _selected(
    options: PullOptions, clone: Clone, config: Config, lfsconfig: Config, files: tuple[RemoteFile, ...]
) -> tuple[RemoteFile, ...]:
    """Return the files that are wanted: by what was typed, else by what the clone is configured to."""
    if not (options.include or options.exclude or options.files):
        include = split_patterns(setting("lfs.fetchinclude", config, lfsconfig))
        exclude = split_patterns(setting("lfs.fetchexclude", config, lfsconfig))
        return tuple(file for file in files if wanted(file.path, include, exclude))
    names = tuple(clone.prefix + name for name in options.files)
    return select(files, names=names, include=options.include, exclude=options.exclude).files


def _server(clone: Clone, config: Config, lfsconfig: Config, remote: str, *, asked: bool) -> Server | None:
    """Return the server that LFS objects are had from, as git-lfs chooses it; None where there is none."""
    named = None if asked else setting("lfs.url", config, lfsconfig)
    named = named or setting(f"remote.{remote}.lfsurl", config, lfsconfig)
    if named is not None:
        return parse_server(clone.address(named) or named, derive=False)
    url = clone.address(remote)
    return None if url is None or url == remote else parse_server(url, derive=True)


def _name_of(server: Server | None) -> str | None:
    match server:
        case HttpServer(url=url):
            return url.removesuffix("/info/lfs").removesuffix(".git")
        case SshServer(destination=destination, path=path):
            return f"{destination}:{path}"
        case LocalServer(path=path):
            return path
        case _:
            return None


def _locator(look: _Look, endpoint: Endpoint, missing: Sequence[RemoteFile]) -> Locator:
    """Return who is asked for what is missing."""
    match look.server:
        case None:
            return Nowhere("the clone has no remote")
        case LocalServer(path=path):
            return Nowhere(f"the remote is a folder, whose LFS store does not have it: `{shown(path)}`")
        case server:
            ssh_command = (look.config.get("core.sshcommand") or [""])[-1] or None
            access = Access(server, endpoint=endpoint, git=look.clone.git, ssh_command=ssh_command)
            return LfsLocator(access, missing, ref=f"refs/heads/{look.branch}" if look.branch else None)


def _copies(options: PullOptions, look: _Look) -> tuple[Callable[[Digest], Iterable[Path]], Path]:
    """Return where a content may lie on this machine already, and the clone's own LFS store."""
    from huggingface_hub import constants

    own, *others = look.clone.stores(look.config)
    for reference in options.references:
        others += lfs_stores(reference.expanduser().absolute())
    if isinstance(look.server, LocalServer):
        others += lfs_stores(look.clone.root / look.server.path)
    cache = (options.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
    try:
        blobs = [repo / "blobs" for repo in sorted(cache.iterdir()) if "--" in repo.name]
    except OSError:
        blobs = []

    def places(digest: Digest) -> Iterable[Path]:
        for store in (own, *others):
            yield store / digest.hex[:2] / digest.hex[2:4] / digest.hex
        for folder in blobs:
            yield folder / digest.hex

    return places, own


async def _prove(tree: WorkTree, files: Sequence[RemoteFile], seen: dict[RepoPath, Seen]) -> dict[RepoPath, Seen]:
    """Hash what has the right length: a file that was edited here must not be taken for one to be fetched again."""
    auditor = Auditor()
    by_path = {file.path: file for file in files}

    async def prove(path: RepoPath) -> None:
        copy, file = seen[path].published, by_path[path]
        assert copy is not None
        before = await anyio.to_thread.run_sync(Path(copy.where).stat)
        if await auditor.matches(Path(copy.where), file.digest, file.size):
            await anyio.to_thread.run_sync(lambda: tree.proofs.add(file.digest, Path(copy.where), hashed=before))
            seen[path] = replace(seen[path], published=replace(copy, proved=True))
        else:
            seen[path] = Seen(obstacle=CHANGED)

    try:
        with ungrouped():
            async with anyio.create_task_group() as group:
                for path, one in seen.items():
                    if one.published is not None and not one.published.proved:
                        group.start_soon(prove, path)
    finally:
        auditor.stop()
    return seen


# --- afterwards --------------------------------------------------------------------------------------------


def _settle(
    options: PullOptions, look: _Look, tree: WorkTree, disk: Disk, own_store: Path, filled: Sequence[RemoteFile]
) -> list[events.Note]:
    """Give the contents to git-lfs's store where that costs nothing (or was asked for), and tell git's index."""
    store = LfsStore(disk, own_store, tree.proofs)
    stored = store.take([(file, look.clone.root / file.path) for file in filled], options.store)
    notes = [events.Note(level="info", message=text) for text in _store_words(stored, options.store)]
    if not _has_filter(look.config):
        message = "git does not know git-lfs here: run `git lfs install` before you commit, or it commits the contents"
        notes.append(events.Note(level="warning", message=message))
    entries = {file: look.entries[file.path] for file in filled}
    try:
        # After the store: a hardlink changes a file's ctime, which the index keeps.
        refresh_index(disk, look.clone, entries, tree.proofs)
    except ForeignIndexError as error:
        notes.append(_ask_git(look, entries, str(error)))
    tree.proofs.flush()
    return notes


def _has_filter(config: Config) -> bool:
    return bool(config.get("filter.lfs.clean") or config.get("filter.lfs.process"))


def _ask_git(look: _Look, entries: dict[RemoteFile, Entry], why: str) -> events.Note:
    """Have git look at the files itself, which copies them into git-lfs's store."""
    if not _has_filter(look.config):
        message = f"git's index could not be told ({why}): `git status` shows the files as changed"
        return events.Note(level="warning", message=f"{message} until `git lfs install` was run")
    paths = b"".join(entry.path + b"\0" for entry in entries.values())
    look.clone.git("update-index", "-q", "-z", "--stdin", data=paths, quick=False)
    message = f"git's index is of a kind that only git writes ({why}); git read the files again, and stored copies"
    return events.Note(level="info", message=message)


def _store_words(stored: Stored, mode: StoreMode) -> list[str]:
    words = []
    if stored.reflinked:
        words.append("git-lfs's store has the contents, too; they share their blocks with the work tree (reflink)")
    if stored.linked:
        words.append(
            "git-lfs's store has the contents, too; they are the same files (hardlink): an edit in place changes both"
        )
    if stored.copied:
        words.append("git-lfs's store has copies of the contents")
    if stored.left_out and mode == "reflink":
        words.append(
            "git-lfs's store does not have the contents, because this file system cannot share blocks;"
            " `--link` or `--lfs-store` puts them there"
        )
    return words


_HINTS = {
    OutcomeKind.REFUSED: "to have its content: `git checkout -- FILE` brings the pointer back, then run this again",
    OutcomeKind.CORRUPT: "the LFS server holds or sends bad bytes; tell its owner",
    OutcomeKind.CONTRADICTED: "the LFS server and the pointer disagree; tell the repo's owner",
    OutcomeKind.ABSENT: "was it ever pushed? `git lfs push --all` from a clone that has it",
    OutcomeKind.DENIED: "git has no password that this server takes: try `git fetch`",
}


def _explained(outcome: Outcome) -> Outcome:
    return outcome if outcome.hint is not None else replace(outcome, hint=_HINTS.get(outcome.kind))


def _refusal(path: str, entry: Entry, why: str) -> Outcome:
    return Outcome(path=shown(path), size=entry.pointer.size, kind=OutcomeKind.REFUSED, detail=why)
