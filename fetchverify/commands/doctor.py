"""`doctor`: look at a model's file or folder, offline, and say what is wrong with it and what mends it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from fetchverify import events
from fetchverify.core.diagnosis import wholes
from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Content, FileSeen, Record
from fetchverify.core.diagnosis.findings import Diagnosis, Finding, Origin, Place, Severity
from fetchverify.core.diagnosis.samples import judge_samples
from fetchverify.core.diagnosis.trainconfig import Machine, judge_training
from fetchverify.core.diagnosis.uses import Use, judge_use
from fetchverify.core.manifest import RepoKind
from fetchverify.core.reference import parse_reference
from fetchverify.core.tree import is_commit
from fetchverify.engine import surroundings
from fetchverify.engine.checksums import Part, crc_flaw
from fetchverify.engine.examine import digest_of, examine
from fetchverify.engine.sample import sample
from fetchverify.errors import AbsentError, FetchverifyError
from fetchverify.formats import config
from fetchverify.formats.source import Malformed, Source
from fetchverify.store.evidence import promised_digest
from fetchverify.store.hubcache import repo_folder_name
from fetchverify.store.reading import MOST_ENTRIES, FileSource, entries
from fetchverify.store.trees import parse_commit, ref_parts

if TYPE_CHECKING:
    from fetchverify.commands.comparing import Against

_NEARBY = 200
# Without `--deep`: what is hashed in a moment.
_SMALL_BYTES = 4 << 20
_MOST_HASHED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """What `fetchverify doctor` was asked for.

    Attributes:
        what: a file, a folder, or a repo in the cache.
        sample_budget_s: how long to look at the numbers; 0 looks at headers alone.
        deep: hash every file whose digest is on record, and not the small ones alone.
        use: also say whether the folder can serve it.
        against: also compare with this repo's own headers.
    """

    what: str
    repo_type: RepoKind | None = None
    revision: str | None = None
    cache_dir: Path | None = None
    sample_budget_s: float = 5.0
    deep: bool = False
    use: Use | None = None
    against: Against | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What is looked at.

    Attributes:
        allowed: where links may lead.
        asked: with another folder found nearby, the one that was asked for.
    """

    path: Path
    allowed: Path
    origin: Origin
    asked: Path | None = None


async def run(options: DoctorOptions, emit: events.Emit) -> Diagnosis:
    """Look, and judge.

    Raises:
        AbsentError: nothing of that name is on this disk.
        DiskError: the folder cannot be read.
    """
    found, seen, target = await anyio.to_thread.run_sync(_run, options, abandon_on_cancel=True)
    if options.against is None:
        return found
    # Imported only here: offline, httpx and its kin are half of a short run.
    from fetchverify.commands.comparing import compare

    differences = await compare(options.against, target.path, seen, target.origin.to, emit)
    checked = (*found.checked, f"the headers of `{options.against.repo}`")
    return replace(found, findings=found.findings + differences, checked=checked)


def _run(options: DoctorOptions) -> tuple[Diagnosis, list[FileSeen], _Target]:
    began = time.monotonic()
    target = _find(options)
    seen = [examine(_path_of(target.path, entry.path), entry) for entry in entries(target.path, target.allowed)]
    places, findings = judge(target.path, seen, target.origin)
    unchecked = (f"only the first {MOST_ENTRIES:,} names were looked at",) if len(seen) >= MOST_ENTRIES else ()
    checked = _checked(seen)
    # What is known to be broken would only be named once more.
    bad = {one.path for one in findings if one.severity is Severity.ERROR}
    if options.sample_budget_s:
        fit = [(_path_of(target.path, one.entry.path), one) for one in seen if one.entry.path not in bad]
        sampled = sample(fit, options.sample_budget_s)
        findings += tuple(judge_samples(sampled.seen, target.origin))
        if sampled.blocks:
            part = f"{len(sampled.seen):,}" if len(sampled.seen) == sampled.blocks else f"{len(sampled.seen):,} of"
            whole = "" if len(sampled.seen) == sampled.blocks else f" {sampled.blocks:,}"
            checked += (f"{part}{whole} samples of the numbers",)
    hashed, wrong = _digests(target, [one for one in seen if one.entry.path not in bad], deep=options.deep)
    findings += wrong
    carried, damaged = _checksums(target, [one for one in seen if one.entry.path not in bad], deep=options.deep)
    findings += damaged
    if carried:
        checked += (f"the CRC32 of {carried:,} file{'s' if carried != 1 else ''}",)
    if hashed:
        checked += (f"{hashed:,} digest{'s' if hashed != 1 else ''}",)
    serves = None
    if options.use is not None:
        top = next((one.value for one in seen if one.entry.path == "config.json"), None)
        lacks = judge_use(options.use, places, top if isinstance(top, dict) else None, findings)
        findings += lacks
        serves = not lacks
    if target.asked is not None:
        asked = f"`{target.asked}` holds none; looked at `{target.path}`"
        findings = (finding("FV413", str(target.path), asked), *findings)
    found = Diagnosis(
        target=str(target.path),
        places=places,
        findings=findings,
        checked=checked,
        unchecked=unchecked,
        serves=serves,
        seconds=round(time.monotonic() - began, 3),
    )
    return found, seen, target


async def run_training(path: Path) -> Diagnosis:
    """Look at a config of Accelerate or DeepSpeed.

    Raises:
        AbsentError: it cannot be read.
    """
    return await anyio.to_thread.run_sync(_run_training, path)


def _run_training(path: Path) -> Diagnosis:
    here = surroundings.machine()
    try:
        with FileSource(path) as source:
            text = source.read(0, 1).lstrip() == b"{" or path.suffix == ".json"
            value = config.read_json(source) if text else config.read_flat_yaml(source)
        if not isinstance(value, dict):
            raise Malformed("FV416", "it is no object")
        findings = tuple(judge_training(path.name, value, here))
        findings += _deepspeed_beside(path, value, here)
    except OSError as error:
        raise AbsentError(f"`{path}` cannot be read: {error.strerror}") from error
    except Malformed as error:
        findings = (finding("FV416", path.name, error.flaw.seen),)
    unchecked = () if here.gpus else ("the number of processes: no GPU is seen here",)
    return Diagnosis(
        target=str(path),
        places=(Place(path=".", layout="training config"),),
        findings=findings,
        checked=("how the training saves",),
        unchecked=unchecked,
    )


def _deepspeed_beside(path: Path, value: dict[str, Any], here: Machine) -> tuple[Finding, ...]:
    """Return the findings on the DeepSpeed config that Accelerate's names."""
    inner = value.get("deepspeed_config")
    named = inner.get("deepspeed_config_file") if isinstance(inner, dict) else None
    if not isinstance(named, str):
        return ()
    other = path.parent / named
    try:
        with FileSource(other) as source:
            told = config.read_json(source)
        return tuple(judge_training(named, told, here)) if isinstance(told, dict) else ()
    except OSError as error:
        return (finding("FV416", named, f"`{path.name}` names it, and it cannot be read: {error.strerror}"),)
    except Malformed as error:
        return (finding("FV416", named, error.flaw.seen),)


def judge(path: Path, seen: list[FileSeen], origin: Origin) -> tuple[tuple[Place, ...], tuple[Finding, ...]]:
    """Return places and findings of a folder; of a single file its own rules alone."""
    places, findings = wholes.judge_tree(seen, origin)
    if path.is_dir():
        return places, findings
    # What lies around a single file was not looked at: say nothing of it.
    own = tuple(one for one in findings if not one.code.startswith(("FV2", "FV4")))
    return (), own


def _digests(target: _Target, seen: list[FileSeen], *, deep: bool) -> tuple[int, tuple[Finding, ...]]:
    """Return how many files were hashed, and those that are not what the cache or the hub's book-keeping promises."""
    left = _MOST_HASHED_BYTES
    wrong = []
    count = 0
    for one in seen:
        path = _path_of(target.path, one.entry.path)
        promised = promised_digest(target.path, path, one.entry.path) if one.entry.trouble is None else None
        if promised is None or (not deep and one.entry.size > min(left, _SMALL_BYTES)):
            continue
        left -= one.entry.size
        try:
            is_so = digest_of(path, promised, one.entry.size) == promised.hex
        except OSError:
            continue  # said already, or gone meanwhile
        count += 1
        if not is_so:
            what = f"{promised.algo} `{promised.hex[:12]}…` is on record, the file has another"
            wrong.append(finding("FV116", one.entry.path, what, origin=target.origin))
    return count, tuple(wrong)


def _checksums(target: _Target, seen: list[FileSeen], *, deep: bool) -> tuple[int, tuple[Finding, ...]]:
    """Return how many files carry checksums of their own that were compared, and those that differ."""
    left = _MOST_HASHED_BYTES
    found = []
    count = 0
    records: dict[tuple[str, str], list[Record]] = {}
    for one in seen:
        for record in one.dcp.records if one.dcp else ():
            records.setdefault((one.entry.path.rpartition("/")[0], record.path), []).append(record)
    for one in seen:
        parent, _, name = one.entry.path.rpartition("/")
        parts = records.get((parent, name))
        if parts is None and (one.sniffed.content is not Content.ZIP or not one.imports):
            continue
        if not deep and one.entry.size > min(left, _SMALL_BYTES):
            continue
        left -= one.entry.size
        try:
            with FileSource(_path_of(target.path, one.entry.path)) as source:
                sources = [source] if parts is None else [Part(source, part.start, part.length) for part in parts]
                flaw = next((flaw for whole in sources if _is_zip(whole) and (flaw := crc_flaw(whole))), None)
        except OSError:
            continue
        count += 1
        if flaw is not None:
            found.append(finding(flaw.code, one.entry.path, flaw.seen, origin=target.origin))
    return count, tuple(found)


def _is_zip(source: Source) -> bool:
    return source.read(0, 4) == b"PK\x03\x04"


def _path_of(root: Path, path: str) -> Path:
    return root / path if root.is_dir() else root


def _checked(seen: Iterable[FileSeen]) -> tuple[str, ...]:
    seen = list(seen)
    headers = [one for one in seen if one.tensors is not None]
    tensors = sum(len(one.tensors or ()) for one in headers)
    phrases = [f"the first bytes of {len(seen):,} file{'s' if len(seen) != 1 else ''}"]
    if headers:
        phrases.append(f"{len(headers):,} header{'s' if len(headers) != 1 else ''} with {tensors:,} tensors")
    pickles = sum(1 for one in seen if one.imports)
    if pickles:
        phrases.append(
            f"{pickles:,} pickle{'s' if pickles != 1 else ''} without running {'them' if pickles != 1 else 'it'}"
        )
    return tuple(phrases)


# --- what is meant


def _find(options: DoctorOptions) -> _Target:
    """Return the place that the words mean: a path where there is one, else a repo in the cache, else one nearby."""
    path = Path(options.what).expanduser().absolute()
    if path.exists():
        target = _at(path)
        return _nearby(path) or target if path.is_dir() and not any(path.iterdir()) else target
    cached = _cached(options)
    if cached is not None:
        return cached
    near = _nearby(path)
    if near is not None:
        return near
    raise AbsentError(
        f"there is no file, folder or cached repo `{options.what}`",
        hint=f"name a path, or fetch it first: `fetchverify get {options.what}`",
    )


def _at(path: Path) -> _Target:
    """Return the target for a path: in the cache it knows its repo, and may link into the repo's blobs."""
    real = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    for parent in (real, *real.parents):
        kind, *names = parent.name.split("--")
        if kind in {"models", "datasets", "spaces"} and 1 <= len(names) <= 2 and (parent / "snapshots").is_dir():
            snapshot = _snapshot(parent, "main") if parent == real else None
            commit = real.relative_to(parent / "snapshots").parts[0] if snapshot is None and parent != real else None
            return _Target(
                path=snapshot or real,
                allowed=parent.parent,
                origin=Origin(repo_id="/".join(names), revision=snapshot.name if snapshot else commit),
            )
    folder = real if real.is_dir() else real.parent
    return _Target(path=real, allowed=folder, origin=Origin(to=str(path if path.is_dir() else path.parent)))


def _cached(options: DoctorOptions) -> _Target | None:
    from huggingface_hub import constants

    try:
        reference = parse_reference(options.what, kind=options.repo_type, revision=options.revision, hosts=())
        name = repo_folder_name(reference.ref.kind, reference.ref.repo_id)
    except FetchverifyError:
        return None
    cache = (options.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
    snapshot = _snapshot(cache / name, reference.ref.revision)
    if snapshot is None:
        return None
    origin = Origin(repo_id=reference.ref.repo_id, revision=options.revision)
    return _Target(path=snapshot, allowed=cache.resolve(), origin=origin)


def _snapshot(repo: Path, revision: str) -> Path | None:
    """Return a revision's snapshot; of `main` without a ref the newest there is."""
    parts = ref_parts(revision)
    commit: str | None = revision if is_commit(revision) else None
    if commit is None and parts is not None:
        try:
            commit = parse_commit((repo / "refs").joinpath(*parts).read_bytes())
        except OSError:
            commit = None
    snapshots = repo / "snapshots"
    if commit is not None and (snapshots / commit).is_dir():
        return snapshots / commit
    if revision != "main" or not snapshots.is_dir():
        return None
    found = [one for one in snapshots.iterdir() if one.is_dir()]
    return max(found, key=lambda one: one.stat().st_mtime, default=None)


def _nearby(path: Path) -> _Target | None:
    """Return a checkpoint beside the folder that was asked for: trainers append names of their own to it.

    Source: llama-recipes `save_model_checkpoint`: `<root>/<folder>-<model name>`, and a model's name holds a `/`.
    """
    parent = path.parent
    if not path.name or not parent.is_dir():
        return None
    beside = [one for one in sorted(parent.iterdir())[:_NEARBY] if one != path and one.name.startswith(path.name)]
    for top in beside:
        if not top.is_dir() or top.is_symlink():
            continue
        for entry in entries(top, top):
            if entry.path.endswith((".distcp", "/.metadata", "train_params.yaml")) or entry.path == ".metadata":
                return replace(_at((top / entry.path).parent), asked=path)
    return None
