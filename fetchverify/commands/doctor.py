"""`doctor`: look at a model's file or folder, offline, and say what is wrong with it and what mends it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from fetchverify import events
from fetchverify.commands.meant import Target, find
from fetchverify.core.diagnosis import wholes
from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Content, FileSeen, Record, Trouble
from fetchverify.core.diagnosis.findings import Diagnosis, Finding, Origin, Place, Severity
from fetchverify.core.diagnosis.layouts import ONE_FILE
from fetchverify.core.diagnosis.samples import judge_samples
from fetchverify.core.diagnosis.trainconfig import Machine, judge_training
from fetchverify.core.diagnosis.uses import Use, judge_use
from fetchverify.core.manifest import RepoKind
from fetchverify.engine import surroundings
from fetchverify.engine.checksums import Part, crc_flaw
from fetchverify.engine.examine import CHECKLIST, digest_of, examine, md5_of
from fetchverify.engine.sample import sample
from fetchverify.errors import AbsentError
from fetchverify.formats import config
from fetchverify.formats.source import Malformed, Source
from fetchverify.store.evidence import promised_digest
from fetchverify.store.reading import FileSource, entries

if TYPE_CHECKING:
    from fetchverify.commands.comparing import Against

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


async def run(options: DoctorOptions, emit: events.Emit) -> Diagnosis:
    """Look, and judge.

    Raises:
        AbsentError: nothing of that name is on this disk.
        DiskError: it cannot be read.
    """
    found, seen, target = await anyio.to_thread.run_sync(_run, options, abandon_on_cancel=True)
    if options.against is None:
        return found
    # Imported only here: offline, httpx and its kin are half of a short run.
    from fetchverify.commands.comparing import compare

    differences = await compare(options.against, target.path, seen, target.origin.to, emit)
    checked = (*found.checked, f"the headers of `{options.against.repo}`")
    return replace(found, findings=found.findings + differences, checked=checked)


def _run(options: DoctorOptions) -> tuple[Diagnosis, list[FileSeen], Target]:
    began = time.monotonic()
    target = find(options.what, options.repo_type, options.revision, options.cache_dir)
    met = list(entries(target.path, target.allowed))
    seen = [examine(_path_of(target.path, one.path), one) for one in met if one.trouble is not Trouble.LEFT_OUT]
    unchecked = tuple(one.detail for one in met if one.trouble is Trouble.LEFT_OUT)
    places, findings = judge(target.path, seen, target.origin)
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
    if own or any(one.tensors is not None or one.value is not None or one.imports for one in seen):
        return tuple(Place(path=one.entry.path, layout=ONE_FILE) for one in seen), own
    return (), (finding("FV217", path.name, "a file that no rule speaks of"),)


def _digests(target: Target, seen: list[FileSeen], *, deep: bool) -> tuple[int, tuple[Finding, ...]]:
    """Return how many files were hashed, and those that are not what the cache or the hub's book-keeping promises."""
    left = _MOST_HASHED_BYTES
    md5s = _listed(seen)
    wrong = []
    count = 0
    for one in seen:
        path = _path_of(target.path, one.entry.path)
        promised = promised_digest(target.path, path, one.entry.path) if one.entry.trouble is None else None
        listed = md5s.get(one.entry.path)
        if (promised is None and listed is None) or (not deep and one.entry.size > min(left, _SMALL_BYTES)):
            continue
        left -= one.entry.size
        try:
            wanted = promised.hex if promised is not None else listed or ""
            kind = promised.algo if promised is not None else "md5"
            found = digest_of(path, promised, one.entry.size) if promised is not None else md5_of(path)
        except OSError:
            continue  # said already, or gone meanwhile
        count += 1
        if found != wanted:
            what = f"{kind} `{wanted[:12]}…` is on record, the file has another"
            wrong.append(finding("FV116", one.entry.path, what, origin=target.origin))
    return count, tuple(wrong)


def _listed(seen: Iterable[FileSeen]) -> dict[str, str]:
    """Return the MD5s by path that Meta's lists of sums give for what lies beside them."""
    found = {}
    for one in seen:
        parent, slash, name = one.entry.path.rpartition("/")
        if name == CHECKLIST and isinstance(one.value, dict):
            found.update({f"{parent}{slash}{path}": md5 for path, md5 in one.value.items()})
    return found


def _checksums(target: Target, seen: list[FileSeen], *, deep: bool) -> tuple[int, tuple[Finding, ...]]:
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
