"""One JSON object a line, for programs; what people read is left to `terminal`."""

from __future__ import annotations

import json
from typing import Any, TextIO

from fetchverify import events


class JsonLines:
    """Writes events and, last, a report or an error; every line is flushed, so a reader sees it at once.

    When the reader goes away the download goes on in silence: its files matter more than its log.
    """

    def __init__(self, stream: TextIO, *, debug: bool = False) -> None:
        self._stream = stream
        self._debug = debug
        self.broken = False

    def __call__(self, event: events.Event) -> None:
        """Write the event, unless it is one of the many: `Progress`, and debug notes that nobody asked for."""
        match event:
            case events.Progress() | events.AuditProgress():
                return
            case events.Note(level="debug") if not self._debug:
                return
            case _:
                self.write(event.as_json())

    def write(self, value: dict[str, Any]) -> None:
        """Write one object."""
        if self.broken:
            return
        try:
            # ASCII only: a path that is no valid UTF-8 arrives as an escape and not as a crash.
            self._stream.write(json.dumps(value, separators=(", ", ": ")) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self.broken = True

    def close(self) -> None:
        """Do nothing: the stream is the caller's."""
