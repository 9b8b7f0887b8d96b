"""Which endpoint to ask for the next bytes, when to pass one over, and whom to suspect of lying; asking is `engine`'s.

Suppliers are numbered in the order in which the user named them; 0 is the one whose metadata is trusted. What an
earlier run left behind came from `EARLIER`: nobody knows whom.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fetchverify.core.retry import Failure, Reason

FIRST = 0
EARLIER = -1
# Files in a row that a supplier does not have, before it is not asked for any more.
ABSENT_FILES = 3
# A supplier may take this much longer for its next block than all together need for what is left.
_END_SLACK = 1.5
# These stand for repo or revision as a whole: the next file would fail alike.
_OF_THE_REPO = frozenset({"RepoNotFound", "RevisionNotFound", "GatedRepo"})
_OF_THE_HOST = frozenset(
    {
        Reason.DNS,
        Reason.CONNECT,
        Reason.TIMEOUT,
        Reason.RESET,
        Reason.PROXY,
        Reason.PROXY_AUTH,
        Reason.TLS,
        Reason.BAD_STATUS,
        Reason.DENIED,
        Reason.PROTOCOL,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What one supplier gives now.

    Attributes:
        number: which one.
        active: requests under way.
        most: requests that it bears at once.
        rate: bytes per second of one of its connections; 0 before any was measured.
    """

    number: int
    active: int
    most: int
    rate: float


def next_supplier(supplies: Sequence[Supply], *, free_bytes: int, block_size: int) -> int | None:
    """Return the number of the supplier that the next request should go to; None where all are busy enough.

    Each has connections in proportion to what one of them gives, so a faster one delivers more blocks. Towards the
    end one that would still be at its next block when the others are through gets none.

    Args:
        supplies: those that may be asked; for each the request could be its next.
        free_bytes: bytes of the file that nobody was asked for yet; 0 in the endgame, where only the fastest counts.
        block_size: bytes of one block.
    """
    able = [each for each in supplies if each.active < each.most]
    if not able:
        return None
    unknown = [each for each in able if not each.rate and not each.active]
    if unknown and free_bytes:
        return unknown[0].number
    known = [each.rate for each in supplies if each.rate]
    usual = sum(known) / len(known) if known else 1.0

    def rate(each: Supply) -> float:
        return each.rate or usual

    best = max(supplies, key=rate)
    total = sum(rate(each) * max(1, each.active) for each in supplies)
    until_end_s = max(free_bytes / total, block_size / rate(best))
    in_time = [each for each in able if block_size / rate(each) <= _END_SLACK * until_end_s]
    if not in_time:
        return None
    return min(in_time, key=lambda each: ((each.active + 1) / rate(each), each.number)).number


def scope(failure: Failure) -> Literal["file", "run"]:
    """Return for what a supplier is passed over that failed for good: this file, or all that the run still wants."""
    if failure.code in _OF_THE_REPO:
        return "run"
    return "run" if failure.reason in _OF_THE_HOST and failure.code != "EntryNotFound" else "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A second opinion that is wanted on some blocks of a file whose digest is wrong.

    Attributes:
        witness: whom to ask, and whom to believe as long as `witness` stays the same.
        suspect: who gave them, perhaps with others.
        indexes: the blocks, ascending.
    """

    witness: int
    suspect: int
    indexes: tuple[int, ...]


def questions(
    came: Mapping[int, frozenset[int]], witnesses: Sequence[int], liars: Collection[int]
) -> Iterator[Question]:
    """Yield whom to ask about which blocks, until the whole digest is right: the cheapest and likeliest first.

    One witness after the other is believed in everything, and the file is proved after each question: who is
    believed wrongly makes no file that matches. The first supplier, whose metadata is trusted, is believed first;
    known liars last. Of those that are suspected, known liars come first, then who gave the fewest blocks.

    Args:
        came: who gave each block; several where a block changed hands.
        witnesses: those that may be asked.
        liars: those who lied before in this run.
    """
    blocks: dict[int, list[int]] = {}
    for index in sorted(came):
        for number in came[index]:
            blocks.setdefault(number, []).append(index)
    believed = sorted(
        witnesses, key=lambda number: (number in liars, number != FIRST, -len(blocks.get(number, ())), number)
    )
    for witness in believed:
        suspects = sorted(
            (number for number in blocks if number != witness),
            key=lambda number: (number not in liars, number == FIRST, len(blocks[number]), number),
        )
        asked: set[int] = set()
        for suspect in suspects:
            indexes = tuple(index for index in blocks[suspect] if index not in asked)
            asked.update(indexes)
            if indexes:
                yield Question(witness=witness, suspect=suspect, indexes=indexes)


def name_liars(disputed: Mapping[int, frozenset[int]], witness: int) -> frozenset[int]:
    """Return who lied, now that the file is proved with the witness's version of these blocks.

    Args:
        disputed: who gave each block that was wrong.
        witness: who gave the right ones.

    A block that several gave says nothing about each of them, unless none of them lied in a block of its own.
    What came in an earlier run has no name.
    """
    alone = {next(iter(givers)) for givers in disputed.values() if len(givers) == 1}
    liars = set(alone)
    for givers in disputed.values():
        if not givers & alone:
            liars |= givers - {witness}
    return frozenset(liars - {EARLIER})
