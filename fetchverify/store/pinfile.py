"""Lock files on disk; what they say is left to `core.pins`."""

from __future__ import annotations

from pathlib import Path

from fetchverify.core.pins import Pin, parse, render
from fetchverify.errors import UsageError
from fetchverify.store.disk import Disk

# A million files at 150 bytes a line; what is longer was not written by us.
_MOST = 256 << 20


def read_pins(path: Path) -> tuple[Pin, ...]:
    """Return the pins of a lock file.

    Raises:
        UsageError: it cannot be read, or is none.
        UntrustedMetadataError: it names what no repo may have.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
        if len(data) > _MOST:
            raise UsageError(f"`{path}` is too long for a lock file")
        return parse(data.decode(), name=str(path))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"cannot read `{path}`: {why}", hint="`fetchverify lock REPO_ID -o FILE` writes one"
        ) from error


def write_pins(disk: Disk, path: Path, pins: tuple[Pin, ...]) -> bool:
    """Write a lock file, whole or not at all; returns whether that changed it."""
    data = render(pins).encode()
    try:
        if path.read_bytes() == data:
            return False
    except OSError:
        pass
    disk.write_file(path, data)
    return True
