"""Which blob a snapshot's name leads to, by its link's text or its inode; whether it is good is left to `blobs`."""

from __future__ import annotations

import posixpath

from fetchverify.core.facts import CacheFacts


def blob_behind(root: str, commit: str, path: str, text: str) -> str | None:
    """Return the name of the repo's blob that a snapshot's link leads to; None where it leads anywhere else."""
    # The hub's and ours, without a call more than needed: 100,000 of them.
    head, _, name = text.rpartition("/")
    if head == _UPWARDS.get(path.count("/")):
        return name or None
    if text.startswith("/"):
        place = posixpath.normpath(text)
    else:
        place = posixpath.normpath(posixpath.join(root, "snapshots", commit, posixpath.dirname(path), text))
    folder, _, name = place.rpartition("/")
    return name if folder == f"{root}/blobs" and name else None


_UPWARDS = {depth: "../" * (depth + 2) + "blobs" for depth in range(64)}


def inodes_of(facts: CacheFacts) -> dict[tuple[int, int], str]:
    """Return which blob an inode is; empty where every name in the snapshots is a link, as a rule."""
    if not any(not isinstance(entry, str) for names in facts.snapshots.values() for entry in names.values()):
        return {}
    return {(state.st_dev, state.st_ino): name for name, state in facts.blobs.items()}
