"""What was asked of the mock Hub and what it sent, request by request, for tests to assert on."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

from mock_server.messages import Origin, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request and its answer; times are of `time.monotonic`."""

    origin: Origin
    connection: int
    method: str
    path: str
    """The path of the URL, unquoted."""
    query: str
    file: str | None
    """The path within the repo, for requests that concern a file or a folder."""
    kind: Route
    range: tuple[int, int | None] | None
    """The range asked for, half-open; the stop is None where it was left open, the start negative for a suffix."""
    authorization: bool
    user_agent: str | None
    if_range: str | None
    accept_encoding: str | None
    t_start: float
    status: int = 0
    """What was sent; 0 while nothing is, or where a fault sent no head at all."""
    bytes_sent: int = 0
    faults: tuple[str, ...] = ()
    t_end: float | None = None


class Ledger:
    """All requests since the start or the last `clear`, in the order in which they came; safe between threads.

    Bytes are counted just before they are given to the socket and taken back if it refuses them, so that a
    client that holds the last byte of a body finds it counted.

    Attributes:
        faulty: answers that a fault made wrong, since the start; `clear` leaves it as it is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[int, Record] = {}
        self._next = 0
        self.faulty = 0
        self._connections: list[tuple[Origin, int]] = []
        self._file: TextIO | None = None

    def open_sink(self, path: Path) -> None:
        """Append each request that ends to a file, as a JSON line, until `close`."""
        self._file = path.open("a", encoding="utf-8")

    # written by the wire

    def connected(self, origin: Origin, connection: int) -> None:
        """Note a connection."""
        with self._lock:
            self._connections.append((origin, connection))

    def begin(self, record: Record) -> int:
        """Note a request and return the number by which it is updated."""
        with self._lock:
            self._next += 1
            self._records[self._next] = record
            return self._next

    def answer(self, number: int, *, status: int, faults: tuple[str, ...]) -> None:
        """Note what is about to be sent."""
        self._change(number, lambda record: replace(record, status=status, faults=faults))
        with self._lock:
            self.faulty += bool(faults)

    def sent(self, number: int, count: int) -> None:
        """Count body bytes."""
        self._change(number, lambda record: replace(record, bytes_sent=record.bytes_sent + count))

    def end(self, number: int) -> None:
        """Note the end of a request."""
        record = self._change(number, lambda record: replace(record, t_end=time.monotonic()))
        if record is not None and self._file is not None:
            with self._lock:
                self._file.write(json.dumps(asdict(record)) + "\n")
                self._file.flush()

    def _change(self, number: int, change: Callable[[Record], Record]) -> Record | None:
        with self._lock:
            record = self._records.get(number)
            if record is None:  # cleared meanwhile
                return None
            self._records[number] = changed = change(record)
            return changed

    def close(self) -> None:
        """Close the file of JSON lines, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # asked by tests

    def requests(
        self,
        *,
        kind: Route | None = None,
        path: str | None = None,
        method: str | None = None,
        origin: Origin | None = None,
        status: int | None = None,
    ) -> list[Record]:
        """Return the requests that match all that is given.

        `path` matches the whole file path within the repo, or the end of the URL's path after a slash.
        """
        with self._lock:
            records = list(self._records.values())
        return [
            record
            for record in records
            if (kind is None or record.kind == kind)
            and (method is None or record.method == method)
            and (origin is None or record.origin == origin)
            and (status is None or record.status == status)
            and (path is None or _concerns(record, path))
        ]

    def ranges(self, path: str | None = None) -> list[tuple[int, int]]:
        """Return the closed ranges that GETs for file bytes asked for, in order, whatever became of them.

        Redirects do not count: a client that sends its range to `resolve` first asked the CDN once.
        """
        return [
            (record.range[0], record.range[1])
            for record in self.requests(path=path, method="GET")
            if record.kind in {"resolve", "cdn", "other"}
            and record.range is not None
            and record.range[1] is not None
            and record.status // 100 != 3
        ]

    def bytes_sent(self, path: str | None = None) -> int:
        """Return how many body bytes were sent, for one file or in all (API answers included)."""
        return sum(record.bytes_sent for record in self.requests(path=path))

    def connections(self, origin: Origin | None = None) -> list[int]:
        """Return the ids of the connections that were opened, in order."""
        with self._lock:
            return [number for where, number in self._connections if origin in (None, where)]

    def clear(self) -> None:
        """Forget all requests and connections."""
        with self._lock:
            self._records.clear()
            self._connections.clear()

    def dump(self, path: Path) -> None:
        """Write all requests as JSON lines."""
        lines = [json.dumps(asdict(record)) + "\n" for record in self.requests()]
        path.write_text("".join(lines), encoding="utf-8")

    def __len__(self) -> int:
        with self._lock:
            return len(self._records)


def _concerns(record: Record, path: str) -> bool:
    return path in {record.file, record.path} or record.path.endswith("/" + path.lstrip("/"))
