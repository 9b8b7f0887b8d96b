"""Sinks turn events into words; time is passed in, streams are in memory. The process itself: `tests/cli`."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify import events
from fetchverify.sinks import human
from fetchverify.sinks.jsonlines import JsonLines
from fetchverify.sinks.tally import Tally
from fetchverify.sinks.terminal import Level, Terminal

MB, GB = 10**6, 10**9


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def planned(files: int, size: int, *, fetch: int | None = None, landed: int = 0) -> events.Planned:
    to_fetch = files if fetch is None else fetch
    return events.Planned(
        files=files,
        files_kept=files - to_fetch,
        files_linked=0,
        files_to_fetch=to_fetch,
        size=size,
        bytes_to_fetch=size - landed if to_fetch else 0,
        bytes_landed=landed,
    )


def started(path: str, size: int, landed: int = 0) -> events.FileStarted:
    return events.FileStarted(path=path, size=size, landed=landed)


def progress(path: str, received: int, verified: int) -> events.Progress:
    return events.Progress(path=path, received=received, verified=verified)


def finished(path: str, size: int, outcome: str = "fetched") -> events.FileFinished:
    return events.FileFinished(path=path, size=size, outcome=outcome, fetched=size)


# --- human ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1049, "1 kB"),
        (1051, "1.1 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (4_100_000, "4.1 MB"),
        (137_000_000_000, "137 GB"),
        (2 * 10**21, "2000 EB"),
    ],
)
def test_sizes_are_decimal_as_on_the_hubs_pages(count: int, text: str) -> None:
    assert text == human.size(count)


@given(st.integers(min_value=0, max_value=10**20))
def test_a_size_never_needs_more_than_four_digits_and_is_off_by_at_most_a_twentieth(count: int) -> None:
    number, unit = human.size(count).split()
    assert len(number.replace(".", "")) <= 3
    factor = 1000 ** ("B", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
    assert abs(float(number) * factor - count) <= count / 19


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0 s"),
        (0.4, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m00s"),
        (90, "1m30s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
        (86400 * 3 + 4 * 3600, "3d04h"),
    ],
)
def test_durations_keep_two_units_at_most(seconds: float, text: str) -> None:
    assert text == human.duration(seconds)


def test_counts_agree_with_their_noun() -> None:
    assert ["1 file", "0 files", "2 bad copies", "10,000,000 files", "1 retry"] == [
        human.count(1, "file"),
        human.count(0, "file"),
        human.count(2, "bad copy"),
        human.count(10**7, "file"),
        human.count(1, "retry"),
    ]


def test_foreign_words_cannot_steer_the_terminal() -> None:
    """A server's error message is printed: it must not clear the screen or fake a prompt."""
    assert "\\x1b[2J\\x0d\\x07é…\n\\x202e" == human.printable("\x1b[2J\r\x07é…\n\u202e")


# --- tally ---------------------------------------------------------------------------------------------------


def test_figures_add_up_files_done_and_files_under_way() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally(planned(9, 10 * GB))
    tally(finished("a", 500 * MB))
    tally(started("b", 5 * GB))
    clock.now += 10
    tally(progress("b", 900 * MB, 700 * MB))
    assert "12% 1.2 GB of 10 GB, 140 MB/s, 1 of 9 files, 1m01s left" == tally.line()
    assert "1 of 9 files published, 1.4 GB received; whole blocks are kept" == tally.interrupted()


def test_the_share_says_100_only_when_all_is_there() -> None:
    tally = Tally(Clock())
    tally(planned(2, 1000))
    tally(finished("a", 999))
    assert "99% 999 B of 1 kB, 1 of 2 files" == tally.line()
    tally(finished("b", 1))
    assert "100% 1 kB of 1 kB, 2 of 2 files" == tally.line()


def test_a_failed_file_counts_as_failed_and_not_as_verified() -> None:
    tally = Tally(Clock())
    tally(planned(2, 2 * MB))
    tally(started("a", MB))
    tally(progress("a", MB, MB))
    tally(finished("a", MB, "corrupt"))
    assert "0% 0 B of 2 MB, 0 of 2 files, 1 failed" == tally.line()


def test_speed_is_that_of_the_last_seconds() -> None:
    """The rate before a stall must not be shown for ever."""
    clock = Clock()
    tally = Tally(clock)
    tally(planned(1, 100 * GB))
    tally(started("a", 100 * GB))
    for second in range(1, 31):
        clock.now += 1
        tally(progress("a", second * GB, second * GB))
    assert tally.bytes_per_s == pytest.approx(GB, rel=0.01)
    for second in range(60):
        clock.now += 1
        tally(progress("a", 30 * GB + second, 30 * GB + second))
    assert tally.bytes_per_s is not None
    assert tally.bytes_per_s < 10


def test_a_fetch_that_starts_again_is_not_counted_twice() -> None:
    tally = Tally(Clock())
    tally(planned(1, MB))
    for _ in range(2):
        tally(started("a", MB))
        tally(progress("a", MB, MB))
    tally(finished("a", MB, "refetched"))
    assert (MB, 1) == (tally.verified, tally.done)


def test_a_resumed_file_is_no_burst_of_speed() -> None:
    """What landed before did not come over the line now; nor is it waited for."""
    clock = Clock()
    tally = Tally(clock)
    tally(planned(1, 10 * GB, landed=8 * GB))
    tally(started("a", 10 * GB, landed=8 * GB))
    clock.now += 1
    tally(progress("a", 8 * GB + 100 * MB, 4 * GB))
    assert "40% 4 GB of 10 GB, 100 MB/s, 0 of 1 file, 19 s left" == tally.line()


def test_bursts_of_small_files_cost_no_memory() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally(planned(10_000, 10_000))
    for number in range(10_000):
        clock.now += 0.001
        tally(finished(str(number), 1))
    assert len(tally._samples) < 100
    assert tally.bytes_per_s == pytest.approx(1000, rel=0.05)


# --- terminal, on a pipe -------------------------------------------------------------------------------------


def pipe(level: Level = "info") -> tuple[Terminal, io.StringIO, Clock]:
    clock, stream = Clock(), io.StringIO()
    return Terminal(stream, progress="lines", level=level, clock=clock), stream, clock


def test_a_pipe_gets_a_line_every_five_seconds_and_no_control_characters() -> None:
    terminal, stream, clock = pipe()
    terminal(planned(1, GB, fetch=0))
    terminal(started("a", GB))
    for step in range(1, 97):
        clock.now += 0.125
        terminal(progress("a", step * MB * 5 // 4, step * MB * 5 // 4))
    terminal.close()
    assert [
        "5% 50 MB of 1 GB, 10 MB/s, 0 of 1 file, 1m35s left",
        "10% 100 MB of 1 GB, 10 MB/s, 0 of 1 file, 1m30s left",
    ] == stream.getvalue().splitlines()


def test_a_short_run_prints_no_progress_on_a_pipe() -> None:
    terminal, stream, _ = pipe()
    terminal(planned(1, MB, fetch=0))
    terminal(finished("a", MB))
    assert stream.getvalue() == ""


def test_a_resumed_run_says_what_it_found() -> None:
    terminal, stream, _ = pipe()
    terminal(events.Resolved(repo_id="o/n", revision="main", commit="3f2a9c1b" * 5, files=3, size=3 * GB))
    terminal(planned(3, 3 * GB, fetch=2, landed=GB))
    assert stream.getvalue() == "o/n@main (3f2a9c1b): fetching 2 of 3 files, 2 GB; 1 GB landed before\n"


def test_a_thousand_retries_are_a_line_a_second() -> None:
    """A server that is down for 200 files must not scroll everything else away."""
    terminal, stream, clock = pipe()
    for number in range(25):
        terminal(events.Retrying(path=f"f{number}", reason="the server said 503", attempt=1, wait_s=2))
        clock.now += 0.125
    assert [
        "`f0`: the server said 503; attempt 2 in 2 s",
        "`f8`: the server said 503; attempt 2 in 2 s (and 7 more like it)",
        "`f16`: the server said 503; attempt 2 in 2 s (and 7 more like it)",
        "`f24`: the server said 503; attempt 2 in 2 s (and 7 more like it)",
    ] == stream.getvalue().splitlines()


def test_levels_choose_what_is_said() -> None:
    def said(level: Level) -> list[str]:
        terminal, stream, _ = pipe(level)
        for each in ("debug", "info", "warning"):
            terminal(events.Note(level=each, message=each))
        return stream.getvalue().splitlines()

    assert ["debug", "info", "warning: warning"] == said("debug")
    assert ["info", "warning: warning"] == said("info")
    assert ["warning: warning"] == said("warning")


def test_a_terminal_that_went_away_ends_nothing() -> None:
    terminal, stream, _ = pipe()
    stream.close()
    terminal(events.Note(level="warning", message="x"))
    terminal(planned(1, MB))
    terminal.close()


# --- JSON ----------------------------------------------------------------------------------------------------


def test_json_lines_leave_out_progress_and_are_ascii() -> None:
    stream = io.StringIO()
    sink = JsonLines(stream)
    sink(progress("é\udce9", 1, 1))
    sink(events.Note(level="debug", message="x"))
    sink(finished("é\udce9", 1))
    assert stream.getvalue().isascii()
    assert [
        {"kind": "FileFinished", "path": "é\udce9", "size": 1, "outcome": "fetched", "fetched": 1, "detail": None}
    ] == [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_fall_silent_when_nobody_reads() -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    sink = JsonLines(Broken())
    sink(finished("a", 1))
    sink(finished("b", 1))
    assert sink.broken
