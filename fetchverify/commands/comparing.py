"""`doctor --against`: the repo's own headers, a few KB a shard, held against a folder; no weights are fetched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from fetchverify import events
from fetchverify.core.diagnosis.against import Side, judge_against
from fetchverify.core.diagnosis.facts import FileSeen, Tensor
from fetchverify.core.diagnosis.findings import Finding, Origin
from fetchverify.core.diagnosis.layouts import hf_weights
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.reference import parse_reference
from fetchverify.engine.examine import digest_of
from fetchverify.errors import NetworkError, UntrustedMetadataError
from fetchverify.formats import safetensors
from fetchverify.formats.source import Malformed
from fetchverify.net.checks import TransferError
from fetchverify.net.hub import Hub
from fetchverify.net.remotesource import RemoteSource
from fetchverify.net.transport import ByteClient
from fetchverify.net.wire import Endpoint

_MOST_SHARDS = 1000
_SMALL_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The repo to compare with, and how to reach it."""

    repo: str
    endpoint: str | None = None
    token: str | None = None


async def compare(
    against: Against, root: Path, seen: Iterable[FileSeen], to: str | None, emit: events.Emit
) -> tuple[Finding, ...]:
    """Return what the folder has otherwise than the repo.

    Raises:
        NetworkError: the repo's headers are not to be had.
        AbsentError: there is no such repo.
    """
    endpoint = Endpoint.from_environment(against.endpoint, against.token)
    reference = parse_reference(against.repo, kind="model", hosts=(endpoint.place,))
    async with Hub(endpoint, emit=emit) as hub:
        manifest = await hub.manifest(reference.ref)
    files = {str(file.path): file for file in manifest.files}
    names = [name for name in hf_weights(files) if name.endswith(".safetensors")][:_MOST_SHARDS]
    there = await anyio.to_thread.run_sync(_headers, endpoint, manifest, [files[name] for name in names])
    here = {one.entry.path: one for one in seen}
    weights = [name for name in hf_weights(here) if here[name].tensors is not None]
    revision = None if reference.ref.revision == "main" else reference.ref.revision
    origin = Origin(repo_id=manifest.ref.repo_id, revision=revision, to=to)
    # Weights that were saved anew lie in other files: their tensors are compared, and not their shards.
    resaved = set(hf_weights(here)) != set(hf_weights(files))
    sizes = {
        path: one.entry.size
        for path, one in here.items()
        if path in files and not (resaved and path in hf_weights(here))
    }

    def differs(path: str) -> bool:
        if files[path].size > _SMALL_BYTES:
            return False
        try:
            return digest_of(root / path, files[path].digest, files[path].size) != files[path].digest.hex
        except OSError:
            return False  # said already

    return await anyio.to_thread.run_sync(
        lambda: tuple(
            judge_against(
                Side(sizes=sizes, tensors={name: here[name].tensors or () for name in weights}),
                Side(sizes={path: file.size for path, file in files.items()}, tensors=there),
                origin,
                differs=differs,
            )
        )
    )


def _headers(endpoint: Endpoint, manifest: Manifest, files: list[RemoteFile]) -> dict[str, tuple[Tensor, ...]]:
    client = ByteClient(endpoint, connections=1, count=lambda: None)
    found = {}
    try:
        for file in files:
            found[str(file.path)] = safetensors.read_header(RemoteSource(client, manifest, file)).tensors
    except TransferError as error:
        raise NetworkError(
            f"the repo's headers are not to be had: {error.failure.summary}", hint="run the same command again later"
        ) from error
    except Malformed as error:
        raise UntrustedMetadataError(
            f"`{manifest.ref.repo_id}` is broken itself: {error.flaw.seen}", hint="compare with another revision"
        ) from error
    finally:
        client.close()
    return found
