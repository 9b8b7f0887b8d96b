"""Which blocks of a partial came from leftovers of others, kept beside its journal; written before they count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fetchverify.store.disk import Disk


class Marks:
    """One partial's note.

    Attributes:
        blocks: indexes of blocks that came, or were about to come, from a leftover.
        bad: the whole digest differed with them: nothing is taken from leftovers again.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self.blocks: set[int] = set()
        self.bad = False
        try:
            told = json.loads(path.read_bytes())
            self.bad = told["bad"] is True
            self.blocks = {index for index in told["blocks"] if isinstance(index, int)}
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def add(self, blocks: Iterable[int], *, bad: bool = False) -> None:
        """Note blocks, durably."""
        self.blocks |= set(blocks)
        self.bad = self.bad or bad
        self._write()

    def clear(self) -> None:
        """Forget the blocks, not whether they were bad."""
        self.blocks = set()
        self._write()

    def _write(self) -> None:
        body = {"bad": self.bad, "blocks": sorted(self.blocks)}
        self._disk.write_file(self._path, json.dumps(body).encode())
