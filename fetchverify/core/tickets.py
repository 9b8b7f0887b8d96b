"""Which blocks of one file to ask for next; asking is left to `engine`."""

from __future__ import annotations

from collections.abc import Container, Iterable


class Tickets:
    """Hands out each missing block to one writer at a time, in file order; not thread-safe, lives on the loop."""

    def __init__(self, missing: Iterable[int]) -> None:
        self._free = sorted(missing)
        self._out: set[int] = set()

    @property
    def free(self) -> int:
        """Blocks that nobody has; others may still be on their way."""
        return len(self._free)

    @property
    def done(self) -> bool:
        """True where every block landed."""
        return not self._free and not self._out

    def take(self, most: int, *, begun: Container[int] = ()) -> tuple[int, ...]:
        """Return the first free blocks that neighbour each other, `most` at the most; empty where none is free.

        Args:
            most: how many blocks one request may span.
            begun: blocks of which a first part is on disk; such a block can only open a segment.
        """
        taken: list[int] = []
        while self._free and len(taken) < most:
            index = self._free[0]
            if taken and (index != taken[-1] + 1 or index in begun):
                break
            taken.append(self._free.pop(0))
        self._out.update(taken)
        return tuple(taken)

    def landed(self, index: int) -> None:
        """Note that the block's bytes and record are on disk."""
        self._out.discard(index)

    def give_back(self, index: int) -> None:
        """Put a block back that did not land, or that has to land again."""
        self._out.discard(index)
        self._free.append(index)
        self._free.sort()
