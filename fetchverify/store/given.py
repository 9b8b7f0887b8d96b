"""Small files that somebody named on a command line or in a configuration: read whole, or said why not."""

from __future__ import annotations

from pathlib import Path

from fetchverify.errors import UsageError
from fetchverify.store.diskerrors import disk_error, is_failing

_MOST = 1 << 20


def read_given(path: Path, what: str = "", *, most: int = _MOST, hint: str | None = None) -> str:
    """Return the text of a file.

    Args:
        path: the file.
        what: what is looked for in it, for the message: `pins from `.
        most: bytes; what is longer is not what it should be.
        hint: what to do where it cannot be read.

    Raises:
        UsageError: it cannot be read, is too long, or is no text in UTF-8.
        DiskError: the disk that it lies on fails.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        text = data.decode()
    except OSError as error:
        if is_failing(error):
            raise disk_error(error, f"read {what}".rstrip(), path) from error
        raise UsageError(f"cannot read {what}`{path}`: {error.strerror or error}", hint=hint) from error
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {what}`{path}`: it is not text", hint=hint) from None
    if len(data) > most:
        raise UsageError(f"cannot read {what}`{path}`: it is longer than {most:,} bytes", hint=hint)
    return text
