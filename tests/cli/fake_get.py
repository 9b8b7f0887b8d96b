"""The command line over a `get` that plays a part, named by the repo: `python fake_get.py get play/slow`."""

from __future__ import annotations

import dataclasses
import errno
import json
import os

import anyio

from fetchverify import cli, events
from fetchverify.commands import get
from fetchverify.core.report import Outcome, OutcomeKind, Report
from fetchverify.errors import AbsentError

MB = 1_000_000
COMMIT = "3f2a9c1b" * 5


def report(*outcomes: Outcome, changed: bool = True, target: str = "/snapshots/x", quarantined: int = 0) -> Report:
    """Return the report of a run that ended so."""
    return Report(
        repo_id="play/x",
        kind="model",
        revision="main",
        commit=COMMIT,
        target=target,
        outcomes=outcomes,
        bytes_fetched=sum(outcome.fetched for outcome in outcomes),
        seconds=0.4,
        requests=3,
        retries=0,
        quarantined=quarantined,
        changed=changed,
        published=not any(outcome.kind.exit_code for outcome in outcomes),
    )


def _files(number: int, kind: OutcomeKind, *, size: int = MB, fetched: int = 0) -> list[Outcome]:
    return [Outcome(path=f"{kind.value}-{i}.bin", size=size, kind=kind, fetched=fetched) for i in range(number)]


def _plan(emit: events.Emit, outcomes: list[Outcome]) -> None:
    size = sum(outcome.size for outcome in outcomes)
    fetched = sum(outcome.fetched for outcome in outcomes)
    kept = sum(outcome.kind is OutcomeKind.KEPT for outcome in outcomes)
    files = len(outcomes)
    emit(events.Resolved(repo_id="play/x", revision="main", commit=COMMIT, files=files, size=size))
    emit(
        events.Planned(
            files=files,
            files_kept=kept,
            files_linked=0,
            files_to_fetch=files - kept,
            size=size,
            bytes_to_fetch=fetched,
            bytes_landed=0,
        )
    )


async def play(options: get.GetOptions, emit: events.Emit) -> Report | get.DryRun:
    """Play the part that the repo's name asks for."""
    if options.dry_run:
        return get.DryRun(
            repo_id="play/x",
            revision="main",
            commit=COMMIT,
            target="/snapshots/x",
            files=(("config.json", 650, "keep"), ("model-00001.safetensors", 4 * MB, "fetch")),
            bytes_to_fetch=4 * MB,
            bytes_free_needed=4 * MB,
        )
    match options.repo.removeprefix("play/"):
        case "nothing":
            kept = _files(9, OutcomeKind.KEPT)
            _plan(emit, kept)
            return report(*kept, changed=False)
        case "some":
            mixed = [*_files(7, OutcomeKind.KEPT), *_files(2, OutcomeKind.FETCHED, fetched=MB)]
            _plan(emit, mixed)
            emit(events.Note(level="debug", message="a detail"))
            emit(events.Retrying(path="fetched-0.bin", reason="connection reset", attempt=1, wait_s=0.5))
            for outcome in mixed:
                emit(events.FileStarted(path=outcome.path, size=outcome.size, landed=0))
                emit(events.Progress(path=outcome.path, received=MB, verified=MB))
                emit(events.FileFinished(path=outcome.path, size=MB, outcome=outcome.kind.value, fetched=MB))
            return report(*mixed)
        case "strange":
            return report(*_files(1, OutcomeKind.KEPT), target="/snapshots/caf\udce9")
        case "refetched":
            return report(*_files(1, OutcomeKind.REFETCHED, fetched=2 * MB), quarantined=1)
        case "corrupt":
            bad = Outcome(path="bad.bin", size=MB, kind=OutcomeKind.CORRUPT, detail="came with another sha256")
            return report(*_files(1, OutcomeKind.FETCHED, fetched=MB), bad, quarantined=1)
        case "unreachable":
            return report(*_files(30, OutcomeKind.UNREACHABLE))
        case "absent":
            raise AbsentError("no repo `play/absent`", hint="check the spelling")
        case "options":
            body = {k: str(v) if v is not None else None for k, v in dataclasses.asdict(options).items()}
            emit(events.Note(level="warning", message=json.dumps(body)))
            return report(*_files(1, OutcomeKind.KEPT), changed=False)
        case "dead-disk":
            raise OSError(errno.EIO, os.strerror(errno.EIO), "/mnt/x")
        case "bug":
            raise KeyError("https://u:pw@cdn.example/x?X-Signature=abc&sig=def hf_abcdefghijklmnop")
        case "slow" | "stuck" as how:
            files = [*_files(3, OutcomeKind.FETCHED, fetched=MB), *_files(1, OutcomeKind.LINKED, size=900 * MB)]
            _plan(emit, files)
            for outcome in files[:2]:
                emit(events.FileFinished(path=outcome.path, size=MB, outcome="fetched", fetched=MB))
            emit(events.FileStarted(path="big.bin", size=900 * MB, landed=0))
            emit(events.Progress(path="big.bin", received=500 * MB, verified=400 * MB))
            emit(events.Note(level="warning", message="ready"))
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.2 if how == "slow" else 60)
        case "race":
            emit(events.Note(level="warning", message="ready"))
            with anyio.move_on_after(60):
                try:
                    await anyio.sleep_forever()
                finally:
                    raise RuntimeError("torn down")
        case "bars":
            await _bars(emit)
            return report(*_files(1, OutcomeKind.FETCHED, fetched=MB))
    raise AssertionError(options.repo)


async def _bars(emit: events.Emit) -> None:
    _plan(emit, _files(6, OutcomeKind.FETCHED, size=100 * MB, fetched=100 * MB))
    names = [f"shard-{i}-of-6-with-a-name-that-is-rather-long.safetensors" for i in range(6)]
    for name in names:
        emit(events.FileStarted(path=name, size=100 * MB, landed=0))
    for step in range(1, 11):
        for name in names:
            emit(events.Progress(path=name, received=step * 10 * MB, verified=step * 9 * MB))
        if step == 5:
            emit(events.Note(level="info", message="a note amid the bars"))
            emit(events.Note(level="info", message="\x1b[31ma hostile one\x1b[0m"))
        await anyio.sleep(0.12)
    for name in names:
        emit(events.FileFinished(path=name, size=100 * MB, outcome="fetched", fetched=100 * MB))
        await anyio.sleep(0.05)


if __name__ == "__main__":
    get.run = play
    cli.main()
