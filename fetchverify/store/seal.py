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
from typing import NamedTuple

from fetchverify.core.facts import CacheFacts, Evidence, Folders, How, State
from fetchverify.core.findings import Verdict
from fetchverify.errors import DiskError
from fetchverify.store.area import STAGING
from fetchverify.store.disk import Disk
from fetchverify.store.proofs import Source
from fetchverify.store.scan import small_bytes

_VERSION = 3
_MOST_BYTES = 16 << 20


class Seal(NamedTuple):
    """What was found when a folder was sealed; to be believed where `holds` says so.

    Attributes:
        verdict: without findings.
        folders: commit to what stood for its snapshot, where something did.
        weights: `(commit, path)` of what may be a model's weights.
        digest: of all of it, and of the fingerprint.
    """

    verdict: Verdict
    folders: Mapping[str, Folders]
    weights: tuple[tuple[str, str], ...]
    digest: str = ""

    def holds(self, facts: CacheFacts, ledger: Source | None, *, asked: bool) -> bool:
        """Return whether all is as it was then; the arguments are those of `fingerprint`."""
        if any(facts.folders.get(commit) != folders for commit, folders in self.folders.items()):
            return False
        found = fingerprint(facts, ledger, asked=asked, folders=self.folders)
        return found is not None and self.digest == _digest(found, self._told(), self.weights)

    def _told(self) -> list[object]:
        good = sorted([evidence.name, how.name, count] for (evidence, how), count in self.verdict.good.items())
        return [self.verdict.files, self.verdict.size, good]

    def write(self, disk: Disk, area: Path, found: str, *, asked: bool) -> None:
        """Keep it for the next run; where nothing can be written, that one takes its time.

        Args:
            disk: to write to.
            area: the folder that holds the seal.
            found: the fingerprint, by the same `folders`.
            asked: as it was told to `fingerprint`.
        """
        told = self._told()
        folders = {commit: [each.digest, each.paths] for commit, each in self.folders.items()}
        data = json.dumps([_digest(found, told, self.weights), told, folders, self.weights]).encode()
        if len(data) <= _MOST_BYTES:
            with suppress(DiskError):
                disk.write_file(_place(area, asked=asked), data, staging=_staging(area), durable=False)


def fingerprint(facts: CacheFacts, ledger: Source | None, *, asked: bool, folders: Mapping[str, Folders]) -> str | None:
    """Return the digest of what a verdict on a repo's snapshots and blobs follows from; None where there is no ledger.

    Args:
        facts: the survey.
        ledger: the state of the ledger that knows, or is to know, the blobs.
        asked: the listings were confirmed by the Hub.
        folders: commits whose names need not be looked at, and what stands for them.
    """
    if ledger is None:
        return None
    seen = [
        [_VERSION, facts.root, asked, ledger, list(facts.snapshots)],
        [facts.blob_links, facts.trees, facts.no_exist],
        {commit: each.digest for commit, each in folders.items()},
    ]
    # Not a checksum: the names are a stranger's choice. In the order of the folders: another one only costs time.
    digest = hashlib.sha256()
    _feed(digest, json.dumps(seen))
    try:
        for commit, names in facts.snapshots.items():
            if commit in folders:
                continue
            links = {path: entry for path, entry in names.items() if isinstance(entry, str)}
            _feed(digest, "\0".join(links), "\0".join(links.values()))
            feed_states(digest, {path: entry for path, entry in names.items() if not isinstance(entry, str)})
        feed_states(digest, facts.blobs)
    except OverflowError:  # no inode or time that we know is so large
        return None
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d " % len(data))
        digest.update(data)


def feed_states(digest: hashlib._Hash, states: Mapping[str, State]) -> None:
    """Feed names and numbers in bulk: JSON of 100,000 states takes a quarter of a second.

    Raises:
        OverflowError: a number is larger than any inode or time that we know.
    """
    _feed(digest, "\0".join(states))
    digest.update(array("q", chain.from_iterable(states.values())).tobytes())


def _place(area: Path, *, asked: bool) -> Path:
    return area / ("seal-hub" if asked else "seal-here")


def read_seal(area: Path, *, asked: bool) -> Seal | None:
    """Return what was found when the folder was sealed, whether or not all is as it was then; None where nothing was.

    Args:
        area: the folder that holds the seal.
        asked: as it was told to `fingerprint`.
    """
    raw = small_bytes(str(_place(area, asked=asked)), _MOST_BYTES)
    if raw is None:
        return None
    try:
        digest, (files, size, good), folders, weights = json.loads(raw)
        proved = Counter({(Evidence[evidence], How[how]): int(count) for evidence, how, count in good})
        return Seal(
            Verdict(files=int(files), size=int(size), good=proved),
            {commit: Folders(tuple(map(str, paths)), str(seen)) for commit, (seen, paths) in folders.items()},
            tuple((str(commit), str(path)) for commit, path in weights),
            str(digest),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def seal_of(verdict: Verdict, folders: Mapping[str, Folders], weights: tuple[tuple[str, str], ...]) -> Seal:
    """Return the seal on a verdict without findings: the next run reads nothing, and finds it unchanged since proof."""
    good = Counter[tuple[Evidence, How]]()
    for (evidence, _), count in verdict.good.items():
        good[evidence, How.LEDGER] += count
    return Seal(Verdict(files=verdict.files, size=verdict.size, good=good), folders, weights)


def _staging(area: Path) -> Path | None:
    staging = area / STAGING
    return staging if staging.is_dir() and not staging.is_symlink() else None


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
