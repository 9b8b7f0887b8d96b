"""Where parsers get their bytes, and the one error they raise."""

from __future__ import annotations

from typing import Protocol

from fetchverify.core.diagnosis.facts import Flaw


class Source(Protocol):
    """Bytes of a known length that can be read anywhere: a file, ranges of a remote one, or memory."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of `[start, stop)`; fewer only where the content ends."""


class Bytes:
    """A source in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self._data)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of `[start, stop)`."""
        return self._data[start:stop]


class Malformed(Exception):  # noqa: N818  # says what the file is, as `Interrupted` says what the run was
    """The file cannot be read as what its name promises; `flaw` says why."""

    def __init__(self, code: str, seen: str) -> None:
        super().__init__(f"{code}: {seen}")
        self.flaw = Flaw(code, seen)


def read_exactly(source: Source, start: int, stop: int, *, what: str, code: str = "FV107") -> bytes:
    """Return `[start, stop)`.

    Raises:
        Malformed: the content ends before.
    """
    if stop > source.size:
        raise Malformed(code, f"{what} reaches to byte {stop:,}, the file has {source.size:,}")
    data = source.read(start, stop)
    if len(data) != stop - start:
        raise Malformed(code, f"{what} ends at byte {start + len(data):,} instead of {stop:,}")
    return data
