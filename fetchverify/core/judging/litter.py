"""What lies about and nobody needs: orphaned downloads, stale locks, leftovers of ours; removal is left to others."""

from __future__ import annotations

import posixpath

from fetchverify.core.facts import AreaFacts, CacheFacts
from fetchverify.core.findings import Kind, Verdict

ORPHAN_S = 24 * 3600.0  # where locks prove nothing: nobody downloads a file for a day without writing to it


def judge_litter(verdict: Verdict, facts: CacheFacts) -> None:
    """Note what lies about in a repo's cache folder: of the hub's client, of ours, of nobody."""
    for name, state in facts.incompletes.items():
        lock = facts.locks.get(f"{name.split('.')[0]}.lock")
        idle_s = facts.now - state.st_mtime_ns / 1e9
        if (lock is None or not lock.held) and (facts.locks_exclude or idle_s > ORPHAN_S):
            verdict.add(Kind.INCOMPLETE, f"blobs/{name}", f"blobs/{name}", size=state.st_size)
    for name, lock in facts.locks.items():
        idle_s = facts.now - lock.state.st_mtime_ns / 1e9
        if not lock.held and idle_s > ORPHAN_S:
            verdict.add(Kind.STALE_LOCK, f".locks/{name}", f"../.locks/{posixpath.basename(facts.root)}/{name}")
    for name in facts.strange:
        verdict.add(Kind.STRANGE, name, name)
    judge_area(verdict, facts.area)


def judge_area(verdict: Verdict, area: AreaFacts) -> None:
    """Note what runs of ours left in their own folder."""
    for one in area.unfinished:
        if not one.alive:
            key = f".fetchverify/partial/{one.name}"
            detail = "the next `get` goes on with it"
            verdict.add(Kind.DEAD_PARTIAL, key, key, size=one.size, detail=detail)
    for name, state in area.temporaries.items():
        verdict.add(Kind.TEMPORARY, f".fetchverify/{name}", f".fetchverify/{name}", size=state.st_size)
    for name in area.cut:
        key = f".fetchverify/relink/{name}"
        verdict.add(Kind.CUT_LINKS, key, key, detail="links to a bad blob were taken away, and not given back")
    for name, state in area.quarantined.items():
        key = f".fetchverify/quarantine/{name}"
        verdict.add(Kind.QUARANTINED, key, key, size=state.st_size)
