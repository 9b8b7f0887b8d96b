"""`probe`: look at an endpoint through one file of a repo, and say whether the line is fit for a long download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio.to_thread

from fetchverify import events
from fetchverify.core.lineprobe import LineProbe, Reach, Throughput
from fetchverify.core.manifest import Manifest, RemoteFile, RepoKind, RepoRef
from fetchverify.core.reference import parse_reference
from fetchverify.core.retry import PATIENT
from fetchverify.errors import AbsentError, NetworkError
from fetchverify.net import probing
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.hub import Hub
from fetchverify.net.transport import ByteClient
from fetchverify.net.wire import Endpoint, host_of

T = TypeVar("T")

# Public, not gated, never moved, and it holds files of 500 MB.
USUAL_REPO = "openai-community/gpt2"
_ROUND_TRIPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What `fetchverify probe` was asked for.

    Attributes:
        what: an endpoint (an address with `://`), a repo, or None.
        connections: the steps, in their order.
        seconds: for each step.
    """

    what: str | None = None
    repo_type: RepoKind | None = None
    revision: str | None = None
    endpoint: str | None = None
    token: str | None = None
    connections: tuple[int, ...] = (1, 4, 16)
    seconds: float = 3.0


async def run(options: ProbeOptions, emit: events.Emit) -> LineProbe:
    """Measure, step by step.

    Raises:
        NetworkError: the endpoint is not reached, or does not answer.
        AbsentError: it lacks the repo, or the repo has no file with bytes.
    """
    endpoint, ref = _understood(options)

    def tell(message: str) -> None:
        emit(events.Note(level="info", message=message))

    tell(f"looking at `{endpoint.host}`")
    reach = await _thread(probing.reach, endpoint)
    manifest, lacks = await _look_up(endpoint, ref, emit)
    file = max(manifest.files, key=lambda one: one.size, default=None)
    if file is None or file.size == 0:
        raise AbsentError(f"`{manifest.ref.repo_id}` has no file with bytes in it", hint="name another repo")
    try:
        return await _measure(endpoint, manifest, file, reach, lacks, options, tell)
    except TransferError as error:
        raise NetworkError(
            f"`{file.path}` of `{manifest.ref.repo_id}` is not to be had: {error.failure.summary}",
            hint="try another repo, or another `--endpoint`",
        ) from error


def _understood(options: ProbeOptions) -> tuple[Endpoint, RepoRef]:
    what, address = options.what, options.endpoint
    if what is not None and "://" in what and not urlsplit(what).path.strip("/") and not what.startswith("hf://"):
        what, address = None, what
    endpoint = Endpoint.from_environment(address, options.token)
    reference = parse_reference(
        what or USUAL_REPO, kind=options.repo_type, revision=options.revision, hosts=(endpoint.place,)
    )
    return endpoint, reference.ref


async def _look_up(endpoint: Endpoint, ref: RepoRef, emit: events.Emit) -> tuple[Manifest, tuple[str, ...]]:
    """Return the repo's files, and what the endpoint lacks to list them as the Hub does."""
    async with Hub(endpoint, emit=emit, patience=replace(PATIENT, attempts=2)) as hub:
        manifest = await hub.manifest(ref)
        return manifest, () if hub.has_tree else ("the listing of files with their digests",)


async def _measure(
    endpoint: Endpoint,
    manifest: Manifest,
    file: RemoteFile,
    reach: Reach,
    lacks: tuple[str, ...],
    options: ProbeOptions,
    tell: Callable[[str], None],
) -> LineProbe:
    def new_client(connections: int) -> ByteClient:
        return ByteClient(endpoint, connections=connections, count=lambda: None)

    answers = probing.Answers(endpoint, manifest, file)
    first = new_client(1)
    try:
        source = await _thread(first.locate, manifest, file)
        missing, quotas = await _thread(answers.lacks)
        ranges = await _thread(probing.honours_ranges, first, manifest, file, source)
        if_range = await _thread(answers.heeds_if_range, source) if ranges else None
        round_trips = await _thread(answers.round_trips, _ROUND_TRIPS)
    finally:
        first.close()
        answers.close()
    steps = []
    for connections in options.connections if ranges else ():
        tell(f"{connections} connection{'s' if connections > 1 else ''} for {options.seconds:g} s")
        steps.append(await _step(new_client(connections), manifest, file, source, connections, options.seconds))
    return LineProbe(
        endpoint=endpoint.url,
        repo_id=manifest.ref.repo_id,
        path=file.path,
        size=file.size,
        reach=reach,
        lacks=(*lacks, *missing),
        ranges=ranges,
        if_range=if_range,
        bytes_host=host_of(source.url),
        quotas=quotas,
        round_trips_s=round_trips,
        throughputs=tuple(steps),
    )


async def _step(
    client: ByteClient, manifest: Manifest, file: RemoteFile, source: Source, connections: int, seconds: float
) -> Throughput:
    watch = probing.Stopwatch(client, manifest, file, source)
    try:
        return await _thread(watch.run, connections, seconds)
    finally:
        watch.stop()
        client.close()


async def _thread(function: Callable[..., T], *arguments: Any) -> T:
    # What a signal leaves behind ends at its own deadline, or is stopped by its owner.
    return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
