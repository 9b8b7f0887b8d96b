"""`verify`: truth, survey, hash, judge, report; over a repo in the cache, all of them, or a folder."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from fetchverify import events
from fetchverify.commands.garbage import without_collector
from fetchverify.commands.verifycache import CacheVerification
from fetchverify.commands.verifyoptions import VerifyOptions, check, folder_at, inside_a_cache
from fetchverify.core.reference import is_path
from fetchverify.core.verified import VerifyReport

if TYPE_CHECKING:
    from fetchverify.core.diagnosis.findings import Finding


async def run(options: VerifyOptions, emit: events.Emit) -> VerifyReport:
    """Hold what lies on disk against what was promised.

    Raises:
        FetchverifyError: there is nothing to verify, or the Hub could not be asked.
    """
    began = time.monotonic()
    with without_collector():
        report = await _verify(options, emit, began)
    if not options.doctor:
        return report
    return replace(report, broken=await anyio.to_thread.run_sync(_broken_there, report, abandon_on_cancel=True))


async def _verify(options: VerifyOptions, emit: events.Emit, began: float) -> VerifyReport:
    """Verify whatever the options name."""
    check(options)
    place = None if options.target is None else inside_a_cache(options.target)
    if options.target is not None and is_path(options.target) and place is None:
        from fetchverify.commands.verifyfolder import FolderVerification

        directory = folder_at(options.target)
        folder = FolderVerification(options, emit)
        async with folder.asking():
            await folder.connect()
            return folder.report(began, *await folder.places(directory))
    if place is not None:
        options = replace(options, **place)
    cache = CacheVerification(options, emit)
    async with cache.asking():
        return cache.report(began, *await cache.places())


def _broken_there(report: VerifyReport) -> tuple[Finding, ...]:
    """Return what is proved and yet broken: the repo itself holds a pointer, or a cut shard."""
    places = [place for place in report.places if place.repo_type == "model" and place.weights]
    if not places:
        return ()
    # Imported only here: it knows every format of weights.
    from fetchverify.engine.examine import broken_weights

    found: list[Finding] = []
    for place in places:
        known = {finding.path for finding in place.verdict.findings}
        there: defaultdict[Path, list[str]] = defaultdict(list)
        for commit, path in place.weights:
            if path not in known:
                there[Path(place.target) if commit is None else Path(place.target, "snapshots", commit)].append(path)
        for folder, paths in there.items():
            found += broken_weights(folder, paths)
    return tuple(found)
