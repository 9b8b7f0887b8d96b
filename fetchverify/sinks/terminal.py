"""Bars on a terminal, a plain line now and then on a pipe; the figures come from `tally`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, TextIO, TypeAlias

from fetchverify import events
from fetchverify.sinks import human
from fetchverify.sinks.tally import Tally

ProgressStyle: TypeAlias = Literal["bars", "lines", "none"]
Level: TypeAlias = Literal["debug", "info", "warning"]

_LEVELS: dict[Level, int] = {"debug": 0, "info": 1, "warning": 2}
_REDRAW_S = 0.1
_LINE_S = 5.0
_REMARK_S = 1.0
# Below this a file is through before its bar was read.
LARGE_FILE = 64 << 20
MOST_FILE_BARS = 4


class Terminal:
    """The sink for people: progress and remarks, on stderr."""

    def __init__(
        self, stream: TextIO, *, progress: ProgressStyle, level: Level = "info", clock: Callable[[], float]
    ) -> None:
        self._stream = stream
        self._progress = progress
        self._level = _LEVELS[level]
        self._clock = clock
        self._bars = _Bars(stream) if progress == "bars" else None
        self._drawn_at = clock()
        self._remark_at = float("-inf")
        self._held_back = 0
        self._ref = ""
        self.tally = Tally(clock)

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        self.tally(event)
        match event:
            case events.Note(level=level, message=message):
                self.say(f"warning: {message}" if level == "warning" else message, level=level)
            case events.Resolved():
                self._ref = f"{event.repo_id}@{event.revision} ({event.commit[:8]})"
            case events.Planned() if event.files_to_fetch:
                landed = f"; {human.size(event.bytes_landed)} landed before" if event.bytes_landed else ""
                self.say(
                    f"{self._ref}: fetching {event.files_to_fetch} of {human.count(event.files, 'file')},"
                    f" {human.size(event.bytes_to_fetch)}{landed}"
                )
            case events.Retrying(path=path, reason=reason, attempt=attempt, wait_s=wait_s):
                what = f"`{path}`: " if path else ""
                when = f"in {human.duration(wait_s)}" if wait_s >= 0.05 else "at once"
                self._remark(f"{what}{reason}; attempt {attempt + 1} {when}")
            case events.Waiting(what=what, wait_s=wait_s, waited_s=waited_s):
                how_long = f"{human.duration(waited_s)} so far" if wait_s is None else human.duration(wait_s)
                self._remark(f"waiting for {what}: {how_long}")
            case events.FileFinished(path=path, size=size, outcome=outcome):
                self.say(f"`{path}`: {outcome}, {human.size(size)}", level="debug")
            case _:
                pass
        self._draw(event)

    def _remark(self, text: str) -> None:
        """Say what a bad line can repeat a thousand times: once a second, the rest is counted."""
        if self._level and self._clock() - self._remark_at < _REMARK_S:
            self._held_back += 1
            return
        more = f" (and {self._held_back:,} more like it)" if self._held_back else ""
        self._remark_at, self._held_back = self._clock(), 0
        self.say(text + more)

    def say(self, text: str, *, level: Level = "info") -> None:
        """Print a line of text, above the bars where there are any."""
        if _LEVELS[level] < self._level:
            return
        text = human.printable(text)
        try:
            if self._bars is not None:
                self._bars.write(text)
            else:
                print(text, file=self._stream, flush=True)
        except (OSError, ValueError):
            self._give_up()

    def stopping(self) -> None:
        """Say that the run winds down; what its connections then complain of is nobody's news."""
        self.say("stopping, what arrived is kept; once more to quit at once")
        self._level = max(self._level, _LEVELS["warning"])

    def _draw(self, event: events.Event) -> None:
        if self._progress == "none" or not self.tally.files:
            return
        now = self._clock()
        try:
            if self._bars is not None:
                if now - self._drawn_at >= _REDRAW_S or isinstance(event, events.Planned | events.FileStarted):
                    self._drawn_at = now
                    self._bars.draw(self.tally)
            elif now - self._drawn_at >= _LINE_S:
                self._drawn_at = now
                print(self.tally.line(), file=self._stream, flush=True)
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        # The terminal went away (or stderr was closed): nobody looks, the download goes on.
        self._progress, self._bars, self._level = "none", None, len(_LEVELS)

    def close(self) -> None:
        """Remove the bars; what is said afterwards is plain text."""
        bars, self._bars, self._progress = self._bars, None, "none"
        if bars is not None:
            try:
                bars.close()
            except (OSError, ValueError):
                self._give_up()


class _Bars:
    """tqdm's bars in fixed places: the whole above, up to four large files below."""

    def __init__(self, stream: TextIO) -> None:
        import threading

        import tqdm

        # Events come on one thread: no watcher thread, and no multiprocessing lock (it needs /dev/shm).
        self._tqdm: Any = tqdm.tqdm
        self._tqdm.monitor_interval = 0
        self._tqdm.set_lock(threading.RLock())
        self._stream = stream
        self._whole: Any = None
        self._files: list[tuple[str, Any] | None] = [None] * MOST_FILE_BARS

    def _shape(self) -> dict[str, Any]:
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns = rows = 0
        if columns > 0 and rows > 0:
            return {"dynamic_ncols": True}
        # A fresh container's terminal is 0 x 0 for a while: tqdm would draw nothing, for ever.
        return {"ncols": 80, "nrows": 24}

    def _bar(self, position: int, total: int, label: str) -> Any:
        return self._tqdm(
            total=max(1, total),
            position=position,
            leave=False,
            file=self._stream,
            disable=False,
            **self._shape(),
            # tqdm would redraw on its own clock; ours is the tally's.
            miniters=float("inf"),
            mininterval=float("inf"),
            # The figures stand in {desc}: tqdm would put a comma before a {postfix}.
            bar_format=label.replace("{", "{{").replace("}", "}}") + "{percentage:3.0f}%|{bar}| {desc}",
        )

    def draw(self, tally: Tally) -> None:
        """Bring every bar to where the tally is."""
        if self._whole is None:
            self._whole = self._bar(0, tally.size, "")
        self._show(self._whole, tally.verified, tally.figures())
        for place, slot in enumerate(self._files):
            if slot is not None and slot[0] not in tally.active:
                slot[1].close()
                self._files[place] = None
        shown = {slot[0] for slot in self._files if slot is not None}
        waiting = [path for path, (size, _, _) in tally.active.items() if size > LARGE_FILE and path not in shown]
        for place in range(MOST_FILE_BARS):
            if self._files[place] is None and waiting:
                path = waiting.pop(0)
                self._files[place] = (path, self._bar(place + 1, tally.active[path][0], _label(path)))
        for slot in self._files:
            if slot is not None:
                size, received, verified = tally.active[slot[0]]
                self._show(slot[1], verified, f"{human.size(received)} of {human.size(size)}")

    @staticmethod
    def _show(bar: Any, done: int, figures: str) -> None:
        bar.n = min(done, bar.total)
        bar.desc = figures
        bar.refresh()

    def write(self, text: str) -> None:
        """Print above the bars."""
        self._tqdm.write(text, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Remove all bars, the lowest first."""
        for slot in reversed(self._files):
            if slot is not None:
                slot[1].close()
        if self._whole is not None:
            self._whole.close()
        self._stream.flush()


def _label(path: str, width: int = 36) -> str:
    name = human.printable(path.rpartition("/")[2])
    # The tail holds what tells a shard from the others: `-00001-of-00033.safetensors`.
    return (name if len(name) <= width else f"{name[: width - 28]}…{name[-27:]}") + " "
