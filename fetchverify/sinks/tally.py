"""Events added up: how far the whole run is, and how fast it goes; showing that is left to `terminal`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fetchverify import events
from fetchverify.core.report import OutcomeKind
from fetchverify.errors import ExitCode
from fetchverify.sinks import human

# Long enough to ride over the pause between two files, short enough to notice a line that went bad.
_WINDOW_S = 20.0


class Tally:
    """What the events so far amount to.

    Attributes:
        files: how many files were selected; 0 before the plan is known.
        size: their bytes.
        done: files that are there and proved.
        failed: files that ended otherwise.
        active: files under way, oldest first: path to `(size, received, verified)`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._finished_bytes = 0
        self._to_fetch = 0
        self._came = 0
        self._audit = False
        self._came_of: dict[str, int] = {}  # of the files under way, in all their rounds
        self.files = self.size = self.done = self.failed = 0
        self.active: dict[str, tuple[int, int, int]] = {}

    def __call__(self, event: events.Event) -> None:
        """Add one event."""
        match event:
            case events.Resolved(files=files, size=size):
                self.files, self.size = files, size
            case events.Planned(files=files, size=size, bytes_to_fetch=to_fetch):
                self.files, self.size, self._to_fetch = files, size, to_fetch
            case events.AuditPlanned(files=files, size=size):
                self.files, self.size, self._audit = files, size, True
            case events.AuditProgress(files=files, size=size):
                self.done, self._finished_bytes = files, size
            case events.FileStarted(path=path, size=size, landed=landed):
                self.active[path] = (size, landed, 0)
            case events.Progress(path=path, received=received, verified=verified) if path in self.active:
                size, before, _ = self.active[path]
                self.active[path] = (size, received, verified)
                self._came_of[path] = self._came_of.get(path, 0) + max(0, received - before)
                self._came += max(0, received - before)
            case events.FileFinished(path=path, size=size, outcome=outcome, fetched=fetched):
                self.active.pop(path, None)
                self._came += max(0, fetched - self._came_of.pop(path, 0))
                if OutcomeKind(outcome).exit_code is ExitCode.CLEAN:
                    self.done += 1
                    self._finished_bytes += size
                else:
                    self.failed += 1
            case _:
                return
        self._sample()

    def _sample(self) -> None:
        now = self._clock()
        # A burst of small files is one sample: the window must not grow with their number.
        if len(self._samples) > 1 and now - self._samples[-2][0] < 0.25:
            self._samples.pop()
        # Speed is that of the line; where nothing is fetched, that of the disk and the hash.
        self._samples.append((now, self._came if self._to_fetch else self.verified))
        while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW_S:
            self._samples.popleft()

    @property
    def verified(self) -> int:
        """Bytes proved so far, or on their way through the hash."""
        return self._finished_bytes + sum(verified for _, _, verified in self.active.values())

    @property
    def received(self) -> int:
        """Bytes that are here: published files, and what came of the others, in earlier runs too."""
        return self._finished_bytes + sum(received for _, received, _ in self.active.values())

    @property
    def bytes_per_s(self) -> float | None:
        """Speed of the last seconds; None before there are two moments to compare."""
        if len(self._samples) < 2:
            return None
        (then, before), (_, after) = self._samples[0], self._samples[-1]
        now = self._clock()
        return max(0, after - before) / (now - then) if now > then else None

    def figures(self) -> str:
        """Return `1.2 GB of 9.8 GB, 95 MB/s, 3 of 9 files, 1m30s left`."""
        speed = self.bytes_per_s
        parts = [f"{human.size(self.verified)} of {human.size(self.size)}"]
        if speed:
            parts.append(human.rate(speed))
        parts.append(f"{self.done} of {human.count(self.files, 'file')}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        left = self._to_fetch - self._came if self._to_fetch else self.size - self.verified
        if speed and left > 0:
            parts.append(f"{human.duration(left / speed)} left")
        return ", ".join(parts)

    def line(self) -> str:
        """Return the figures with the share that is done in front: `12% 1.2 GB of …`."""
        # Rounded down: 100% is said when nothing is missing.
        share = 100 * self.verified // self.size if self.size else 0
        return f"{share}% {self.figures()}"

    def interrupted(self) -> str:
        """Return what an interrupted run leaves behind."""
        if self._audit:
            read = f"{self.done:,} of {human.count(self.files, 'file')} read, {human.size(self.verified)}"
            return f"{read}; what was proved is remembered"
        if not self.files:
            return "nothing was written yet"
        # Of a file under way only whole blocks are kept: the figure is what came, not what stays.
        came = f"{human.size(self.received)} received; whole blocks are kept"
        return f"{self.done} of {human.count(self.files, 'file')} published, {came}"
