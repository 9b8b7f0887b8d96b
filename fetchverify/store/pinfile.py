"""Lock files on disk; what they say is left to `core.pins`."""

from __future__ import annotations

from pathlib import Path

from fetchverify.core.pins import Pin, parse, render
from fetchverify.store.disk import Disk
from fetchverify.store.given import read_given

# A million files at 150 bytes a line; what is longer was not written by us.
_MOST = 256 << 20


def read_pins(path: Path) -> tuple[Pin, ...]:
    """Return the pins of a lock file.

    Raises:
        UsageError: it cannot be read, or is none.
        DiskError: the disk that it lies on fails.
        UntrustedMetadataError: it names what no repo may have.
    """
    text = read_given(path, most=_MOST, hint="`fetchverify lock REPO_ID -o FILE` writes one")
    return parse(text, name=str(path))


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
