"""The state table has no dead ends and no unproved road to PUBLISHED."""

from __future__ import annotations

import pytest

from fetchverify.core.lifecycle import TABLE, State, Step, step


def test_only_a_verified_file_is_ever_published() -> None:
    """The one promise, as a property of the table."""
    assert {(State.VERIFIED, Step.RENAMED)} == {edge for edge, to in TABLE.items() if to is State.PUBLISHED}
    assert {(State.COMPLETE, Step.DIGEST_MATCHED)} == {edge for edge, to in TABLE.items() if to is State.VERIFIED}


def test_every_state_leads_to_published() -> None:
    """A file that cannot come back from quarantine would need a human."""
    reach = {State.PUBLISHED}
    while True:
        more = reach | {start for (start, _), to in TABLE.items() if to in reach}
        if more == reach:
            break
        reach = more
    assert set(State) == reach


def test_a_step_that_the_table_lacks_is_a_bug() -> None:
    assert State.PARTIAL is step(State.PLANNED, Step.BLOCK_LANDED)
    with pytest.raises(ValueError, match="planned file cannot see renamed"):
        step(State.PLANNED, Step.RENAMED)
