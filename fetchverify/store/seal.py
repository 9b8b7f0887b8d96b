"""The seal on a repo's cache folder: one digest of all that was seen in it when all of it was found good.

It stands for as many comparisons as there are files, with the ledger it rests on: where a name, a link's text, a state
or the ledger itself is another one now, the digest is another one. It may be lost or damaged: then each is compared.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

from fetchverify.core.facts import CacheFacts, Evidence, How, State
from fetchverify.core.findings import Verdict
from fetchverify.errors import DiskError
from fetchverify.store.area import STAGING
from fetchverify.store.disk import Disk
from fetchverify.store.proofs import Source
from fetchverify.store.scan import small_bytes

_VERSION = 2
_MOST_BYTES = 4096


def fingerprint(facts: CacheFacts, ledger: Source | None, *, asked: bool) -> str | None:
    """Return the digest of what a verdict on a repo's snapshots and blobs follows from; None where there is no ledger.

    Args:
        facts: the survey.
        ledger: the state of the ledger that knows, or is to know, the blobs.
        asked: the listings were confirmed by the Hub.
    """
    if ledger is None:
        return None
    seen = [
        [_VERSION, facts.root, asked, ledger, list(facts.snapshots)],
        [facts.blob_links, facts.trees, facts.no_exist],
    ]
    # Not a checksum: the names are a stranger's choice. In the order of the folders: another one only costs time.
    digest = hashlib.sha256()
    _feed(digest, json.dumps(seen))
    try:
        for names in facts.snapshots.values():
            links = {path: entry for path, entry in names.items() if isinstance(entry, str)}
            _feed(digest, "\0".join(links), "\0".join(links.values()))
            _feed_states(digest, {path: entry for path, entry in names.items() if not isinstance(entry, str)})
        _feed_states(digest, facts.blobs)
    except OverflowError:  # no inode or time that we know is so large
        return None
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d " % len(data))
        digest.update(data)


def _feed_states(digest: hashlib._Hash, states: Mapping[str, State]) -> None:
    """Feed names and numbers in bulk: JSON of 100,000 states takes a quarter of a second."""
    _feed(digest, "\0".join(states))
    digest.update(array("q", chain.from_iterable(states.values())).tobytes())


def _place(area: Path, *, asked: bool) -> Path:
    return area / ("seal-hub" if asked else "seal-here")


def read_seal(area: Path, found: str | None, *, asked: bool) -> Verdict | None:
    """Return what was found when the folder was sealed; None where it is not as it was then.

    Args:
        area: the folder that holds the seal.
        found: the fingerprint of what is there now.
        asked: as it was told to `fingerprint`.
    """
    raw = small_bytes(str(_place(area, asked=asked)), _MOST_BYTES)
    if raw is None or found is None:
        return None
    try:
        seal, told = json.loads(raw)
        files, size, good = told
        if seal != _digest(found, files, size, good):
            return None
        proved = Counter({(Evidence[evidence], How[how]): int(count) for evidence, how, count in good})
        return Verdict(files=int(files), size=int(size), good=proved)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def write_seal(disk: Disk, area: Path, found: str, verdict: Verdict, *, asked: bool) -> None:
    """Keep a verdict that found nothing wrong; where nothing can be written, the next run takes its time."""
    # The next run reads nothing: it finds what this one read unchanged since.
    good = Counter[tuple[str, str]]()
    for (evidence, _), count in verdict.good.items():
        good[evidence.name, How.LEDGER.name] += count
    told = [verdict.files, verdict.size, [[*key, count] for key, count in good.items()]]
    data = json.dumps([_digest(found, *told), told]).encode()
    with suppress(DiskError):
        disk.write_file(_place(area, asked=asked), data, staging=_staging(area), durable=False)


def _staging(area: Path) -> Path | None:
    staging = area / STAGING
    return staging if staging.is_dir() and not staging.is_symlink() else None


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
