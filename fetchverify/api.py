"""The library: `get` and `aget`, the same run that the command line makes, without its output."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from fetchverify import events
from fetchverify.errors import FetchverifyError, IncompleteError

if TYPE_CHECKING:
    from fetchverify.core.manifest import RepoKind

P = ParamSpec("P")
R = TypeVar("R")


async def aget(
    repo_id: str,
    files: Sequence[str] = (),
    *,
    repo_type: RepoKind | None = None,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    to: str | Path | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | Sequence[str] | None = None,
    layout: Literal["hf", "original"] | None = None,
    token: str | None = None,
    connections: int = 16,
    limit_rate: int | None = None,
    offline: bool = False,
    force: bool = False,
    lock_timeout_s: float | None = None,
    on_event: Callable[[events.Event], None] | None = None,
) -> Path:
    """Download a repo (or some of its files) and return the folder that holds it, every file proved.

    Args:
        repo_id: `org/name`, `org/name@revision`, an `hf://` address or a URL of the Hub.
        files: paths in the repo; all where empty.
        repo_type: `model` (the default), `dataset` or `space`.
        revision: branch, tag or commit; the default branch where None.
        include: the hub's glob patterns of what to take.
        exclude: the hub's glob patterns of what to leave.
        to: a plain folder; the Hugging Face cache where None.
        cache_dir: another cache than `HF_HUB_CACHE`.
        endpoint: another Hub or mirror than `HF_ENDPOINT`; of several the first is trusted for metadata and sees the
            token, bytes come from all.
        layout: `hf` or `original`, for repos that hold the weights in both formats.
        token: as the hub client finds it where None; an empty string asks without one.
        connections: requests under way at once.
        limit_rate: bytes per second over all connections.
        offline: use what is on disk, ask nobody.
        force: fetch again what is there already.
        lock_timeout_s: seconds to wait for another process's lock; for ever where None.
        on_event: called on the event loop's thread with every `fetchverify.events.Event`.

    Returns:
        The snapshot folder in the cache, or `to`.

    Raises:
        IncompleteError: some files could not be had or proved; `report` says which and why. What could be
            proved is published, the ref did not move.
        FetchverifyError: the run could not go on; `exit_code` and `hint` say more.
    """
    from fetchverify.commands import get as command
    from fetchverify.core.report import Report

    options = command.GetOptions(
        repo=repo_id,
        files=tuple(files),
        repo_type=repo_type,
        revision=revision,
        include=tuple(include),
        exclude=tuple(exclude),
        to=None if to is None else Path(to),
        cache_dir=None if cache_dir is None else Path(cache_dir),
        endpoint=endpoint if endpoint is None or isinstance(endpoint, str) else tuple(endpoint),
        layout=layout,
        token=token,
        connections=connections,
        limit_rate=limit_rate,
        offline=offline,
        force=force,
        lock_timeout_s=lock_timeout_s,
    )
    report = await command.run(options, on_event or events.ignore)
    assert isinstance(report, Report)
    if report.exit_code:
        bad = next(outcome for outcome in report.outcomes if outcome.kind.exit_code)
        raise IncompleteError(f"`{bad.path}` is {bad.kind.value}: {bad.detail}", report=report)
    return Path(report.target)


def _blocking(function: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        import anyio

        async def run() -> R:
            return await function(*args, **kwargs)

        return anyio.run(run)

    call.__doc__ = f"Blocking form of `aget`.\n\n{function.__doc__}"
    return call


get = _blocking(aget)

__all__ = ["FetchverifyError", "IncompleteError", "aget", "get"]
