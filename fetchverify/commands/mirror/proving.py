"""`mirror verify`: hash a share of the mirror, the oldest proof first, so that all is proved every so often."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fetchverify import events
from fetchverify.commands.mirror.setting import Setting, load
from fetchverify.commands.mirror.sync import alone
from fetchverify.core.manifest import Commit, Digest, RepoRef
from fetchverify.core.mirrorstate import RepoState
from fetchverify.core.select import chooser
from fetchverify.engine.audit import Auditor
from fetchverify.errors import ExitCode, ungrouped
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache, repo_folder_name
from fetchverify.store.proofs import Proofs
from fetchverify.store.versions import folder_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveOptions:
    """What `fetchverify mirror verify` was asked for.

    Attributes:
        sample: part of the mirror's bytes, above 0, at most 1.
        budget_s: begin no file after so many seconds.
        clock: Unix seconds.
    """

    config: Path
    sample: float = 1.0
    budget_s: float | None = None
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A file whose bytes are not what they were proved to be, or that is not there.

    Attributes:
        missing: readers of the current commit do not find it.
    """

    repo_id: str
    path: str
    promised: str
    commits: tuple[Commit, ...]
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveReport:
    """One run's end.

    Attributes:
        files: how many were hashed, of `all_files`; hard links of one file count once.
        size: their bytes, of `all_size`.
        oldest: when the file was hashed that waits longest now; Unix seconds, 0 for one that never was.
    """

    folder: str
    files: int
    all_files: int
    size: int
    all_size: int
    oldest: float
    seconds: float
    bad: tuple[Bad, ...]

    @property
    def exit_code(self) -> ExitCode:
        """1 where bytes are bad or missing."""
        return ExitCode.FINDINGS if self.bad else ExitCode.CLEAN

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        names = ("folder", "files", "all_files", "size", "all_size", "oldest", "seconds")
        body = {name: getattr(self, name) for name in names}
        keys = ("repo_id", "path", "promised", "missing")
        bad = [{key: getattr(one, key) for key in keys} for one in self.bad]
        return {"kind": "ProveReport", "exit_code": int(self.exit_code), **body, "bad": bad}


@dataclass(slots=True, kw_only=True)
class _File:
    """One inode: its names, and who vouches for it."""

    key: str
    ref: RepoRef
    path: Path
    digest: Digest
    seen: os.stat_result
    commits: list[Commit] = field(default_factory=list)
    proofs: list[Proofs] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    """A file that readers of a revision should find."""

    ref: RepoRef
    commit: Commit
    path: Path
    digest: Digest


async def run(options: ProveOptions, emit: events.Emit) -> ProveReport:
    """Hash what is due, and note what is bad: the next `mirror sync` mends it.

    Raises:
        UsageError: the config is not valid.
        DiskError: the mirror's book cannot be written.
    """
    began = time.monotonic()
    setting = await anyio.to_thread.run_sync(load, options.config)
    files, missing = await anyio.to_thread.run_sync(_files, setting)
    noted = await anyio.to_thread.run_sync(setting.book.load_proofs)
    # Of a clock that was ahead: such files would wait until that time comes again.
    proofs = {key: when for key, when in noted.items() if when <= options.clock()}
    ordered = sorted(files.values(), key=lambda file: proofs.get(file.key, 0.0))
    total = sum(file.seen.st_size for file in ordered)
    due = list(_share(ordered, options.sample * total))
    emit(events.AuditPlanned(files=len(due), size=sum(file.seen.st_size for file in due)))
    until = None if options.budget_s is None else began + options.budget_s
    good, bad = await _hash(due, until, emit)
    now = options.clock()
    known = {key: when for key, when in proofs.items() if key in files}
    known.update((file.key, now) for file in good)
    for file in bad:
        known.pop(file.key, None)
    await anyio.to_thread.run_sync(setting.book.save_proofs, known)
    if bad or missing:
        async with alone(setting, emit, wait=True):
            missing = await anyio.to_thread.run_sync(_note, setting, bad, missing)
    return ProveReport(
        folder=str(setting.folder),
        files=len(good) + len(bad),
        all_files=len(ordered),
        size=sum(file.seen.st_size for file in [*good, *bad]),
        all_size=total,
        oldest=min((known.get(file.key, 0.0) for file in ordered), default=now),
        seconds=round(time.monotonic() - began, 3),
        bad=(
            *(_bad(file.ref, file.path, file.digest, file.commits) for file in bad),
            *(_bad(each.ref, each.path, each.digest, [each.commit], missing=True) for each in missing),
        ),
    )


def _bad(ref: RepoRef, path: Path, digest: Digest, commits: list[Commit], *, missing: bool = False) -> Bad:
    return Bad(repo_id=ref.repo_id, path=str(path), promised=digest.hex, commits=tuple(commits), missing=missing)


def _share(files: list[_File], size: float) -> Iterator[_File]:
    """Yield files until they make up so many bytes; at least one."""
    taken = 0
    for file in files:
        if taken >= size and taken:
            return
        taken += file.seen.st_size
        yield file


async def _hash(files: list[_File], until: float | None, emit: events.Emit) -> tuple[list[_File], list[_File]]:
    """Return the files that are what they should be, and those that are not."""
    auditor = Auditor()
    good: list[_File] = []
    bad: list[_File] = []
    queue = iter(files)
    size = 0

    async def work() -> None:
        nonlocal size
        for file in queue:
            if until is not None and time.monotonic() >= until:
                return
            if await auditor.matches(file.path, file.digest, file.seen.st_size):
                good.append(file)
            elif _is_as_seen(file):
                bad.append(file)
            else:
                continue  # a `mirror sync` beside us removed or mended it
            size += file.seen.st_size
            emit(events.AuditProgress(files=len(good) + len(bad), size=size))

    try:
        with ungrouped():
            async with anyio.create_task_group() as group:
                for _ in range(os.cpu_count() or 1):
                    group.start_soon(work)
    finally:
        auditor.stop()
    return good, bad


def _is_as_seen(file: _File) -> bool:
    now, then = _regular(file.path), file.seen
    return now is not None and (now.st_ino, now.st_size, now.st_mtime_ns) == (
        then.st_ino,
        then.st_size,
        then.st_mtime_ns,
    )


def _files(setting: Setting) -> tuple[dict[str, _File], list[_Missing]]:
    """Return every file of the mirror, by a name that stays, and those that are not there."""
    found: dict[str, _File] = {}
    missing: list[_Missing] = []
    for state in setting.book.load().values():
        missing += _missing(setting, state)
        walk = _blobs if setting.config.layout == "cache" else _versioned
        for file, proofs, commit in walk(setting, state):
            one = found.setdefault(file.key, file)
            if commit not in one.commits:
                one.commits.append(commit)
                one.proofs.append(proofs)
    return found, missing


def _missing(setting: Setting, state: RepoState) -> Iterator[_Missing]:
    """Yield what readers of the current commit should find, and do not."""
    entries = [entry for entry in setting.config.entries if entry.means(state.ref)]
    chosen = [chooser(entry.include, entry.exclude) for entry in entries if entry.selection == state.selection]
    if state.commit is None or not chosen:
        return  # the patterns are others now: what they chose then is not known
    if setting.config.layout == "cache":
        cache = HubCache(setting.disk, setting.folder, repo_folder_name(state.ref.kind, state.ref.repo_id))
        files, place = cache.read_tree(state.commit), cache.root / "snapshots" / state.commit
    else:
        place = folder_of(setting.folder, state.ref) / state.commit
        files = Folder(setting.disk, place).read_tree(state.commit)
    for file in files or ():
        if chosen[0](file.path) and not (place / file.path).exists():
            yield _Missing(ref=state.ref, commit=state.commit, path=place / file.path, digest=file.digest)


def _blobs(setting: Setting, state: RepoState) -> Iterator[tuple[_File, Proofs, Commit]]:
    name = repo_folder_name(state.ref.kind, state.ref.repo_id)
    cache = HubCache(setting.disk, setting.folder, name)
    for commit in state.commits:
        for file in cache.read_tree(commit) or ():
            path = cache.blob(file.digest)
            seen = _regular(path)
            if seen is not None:
                key = f"{name}/{file.digest.hex}"
                yield _File(key=key, ref=state.ref, path=path, digest=file.digest, seen=seen), cache.proofs, commit


def _versioned(setting: Setting, state: RepoState) -> Iterator[tuple[_File, Proofs, Commit]]:
    root = folder_of(setting.folder, state.ref)
    for commit in state.commits:
        folder = Folder(setting.disk, root / commit)
        for file in folder.read_tree(commit) or ():
            path = folder.target / file.path
            seen = _regular(path)
            if seen is not None:
                key = f"{root.relative_to(setting.folder)}/{file.digest.hex}/{seen.st_ino}"
                yield _File(key=key, ref=state.ref, path=path, digest=file.digest, seen=seen), folder.proofs, commit


def _regular(path: Path) -> os.stat_result | None:
    try:
        seen = path.lstat()
    except OSError:
        return None
    return seen if stat.S_ISREG(seen.st_mode) else None


def _note(setting: Setting, bad: list[_File], missing: list[_Missing]) -> list[_Missing]:
    """Take back the proofs of bad files, and mark commits: `get` then sees that they are not right.

    Returns:
        What of `missing` still is, now that no other run is at work.
    """
    states = setting.book.load()
    still = [
        each
        for each in missing
        if each.ref in states and states[each.ref].commit == each.commit and not each.path.exists()
    ]
    for each in still:
        state = states[each.ref]
        if each.commit not in state.damaged:
            states[each.ref] = replace(state, damaged=(*state.damaged, each.commit))
    for file in bad:
        for proofs in file.proofs:
            proofs.forget(file.digest, file.seen)
            proofs.flush()
        for ref, state in states.items():
            if (ref.kind, ref.repo_id) == (file.ref.kind, file.ref.repo_id):
                hit = [commit for commit in file.commits if commit in state.commits and commit not in state.damaged]
                states[ref] = replace(state, damaged=(*state.damaged, *hit))
    setting.book.save(states.values())
    return still
