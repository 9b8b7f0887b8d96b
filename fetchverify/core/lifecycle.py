"""The life of one file as a table; deriving the state from what lies on disk is left to `store`."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a file is on its way. Never stored: a crash needs no repair step."""

    PLANNED = "planned"
    PARTIAL = "partial"
    COMPLETE = "complete"
    VERIFIED = "verified"
    PUBLISHED = "published"
    QUARANTINED = "quarantined"


class Step(Enum):
    """What can happen to a file."""

    BLOCK_LANDED = "block_landed"
    LAST_BLOCK_LANDED = "last_block_landed"
    REMOTE_CHANGED = "remote_changed"
    DIGEST_MATCHED = "digest_matched"
    DIGEST_DIFFERED = "digest_differed"
    BLOCKS_ROTTED = "blocks_rotted"
    RENAMED = "renamed"
    REPLANNED = "replanned"


TABLE: dict[tuple[State, Step], State] = {
    (State.PLANNED, Step.BLOCK_LANDED): State.PARTIAL,
    (State.PLANNED, Step.LAST_BLOCK_LANDED): State.COMPLETE,
    (State.PARTIAL, Step.BLOCK_LANDED): State.PARTIAL,
    (State.PARTIAL, Step.LAST_BLOCK_LANDED): State.COMPLETE,
    # Digest or size differ at the pinned commit; an ETag change alone ends only that response.
    (State.PARTIAL, Step.REMOTE_CHANGED): State.QUARANTINED,
    (State.COMPLETE, Step.DIGEST_MATCHED): State.VERIFIED,
    (State.COMPLETE, Step.DIGEST_DIFFERED): State.QUARANTINED,
    (State.VERIFIED, Step.RENAMED): State.PUBLISHED,
    (State.PUBLISHED, Step.DIGEST_DIFFERED): State.QUARANTINED,
    # The block map shows which blocks rotted: those alone are fetched again.
    (State.PUBLISHED, Step.BLOCKS_ROTTED): State.PARTIAL,
    (State.QUARANTINED, Step.REPLANNED): State.PLANNED,
}


def step(state: State, what: Step) -> State:
    """Return the state that follows.

    Raises:
        ValueError: the table has no such step; a bug in the caller.
    """
    try:
        return TABLE[state, what]
    except KeyError:
        raise ValueError(f"a {state.value} file cannot see {what.value}") from None
