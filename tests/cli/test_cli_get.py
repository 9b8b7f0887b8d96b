"""What the process says and how it ends; the run itself is played by `fake_get`."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

FAKE = str(Path(__file__).with_name("fake_get.py"))
ROOT = Path(__file__).parents[2]
HEX = "3f2a9c1b" * 5


def environment(**more: str) -> dict[str, str]:
    dropped = ("HF_", "TRANSFORMERS_", "TQDM_", "COLUMNS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


def run(*args: str, stdin: str = "", **more: str) -> tuple[int, str, str]:
    """Return exit code, stdout, stderr of the command line over the fake."""
    done = subprocess.run(
        [sys.executable, "-W", "error", FAKE, *args],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(**more),
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def options(*args: str, stdin: str = "", **more: str) -> dict[str, Any]:
    """Return what `get` is handed for this command line."""
    code, _, err = run("get", "play/options", "-q", *args, stdin=stdin, **more)
    assert code == 0, err
    value: dict[str, Any] = json.loads(err.removeprefix("warning: "))
    return value


# --- stdout --------------------------------------------------------------------------------------------------


def test_stdout_is_the_path_and_nothing_else() -> None:
    """`path=$(fetchverify get …)` must work, whatever was printed on the way."""
    code, out, err = run("get", "play/some")
    assert (0, "/snapshots/x\n") == (code, out)
    assert [
        "play/x@main (3f2a9c1b): fetching 2 of 9 files, 2 MB",
        "`fetched-0.bin`: connection reset; attempt 2 in 0.5 s",
        "9 files, 9 MB verified in 0.4 s; 2 fetched, 7 kept, 2 MB received (5 MB/s)",
    ] == err.splitlines()


def test_a_second_run_says_that_there_was_nothing_to_do() -> None:
    code, out, err = run("get", "play/nothing")
    assert (0, "/snapshots/x\n", "nothing to do: 9 files, 9 MB, all proved already\n") == (code, out, err)


def test_quiet_leaves_the_path_alone_on_stdout_and_stderr_empty() -> None:
    """cron mails whatever is printed."""
    assert (0, "/snapshots/x\n", "") == run("get", "play/some", "-q")
    assert (0, "/snapshots/x\n", "") == run("get", "play/nothing", "--quiet")


def test_verbose_shows_each_file_and_debug_notes() -> None:
    _, out, err = run("get", "play/some", "-v")
    assert out == "/snapshots/x\n"
    assert "a detail" in err
    assert "`fetched-1.bin`: fetched, 1 MB" in err


def test_a_path_that_is_no_text_is_printed_as_the_bytes_it_is() -> None:
    done = subprocess.run(
        [sys.executable, FAKE, "get", "play/strange"], capture_output=True, env=environment(), check=True, timeout=60
    )
    assert done.stdout == b"/snapshots/caf\xe9\n"


def test_json_is_an_object_a_line_and_ends_with_the_report() -> None:
    code, out, err = run("get", "play/some", "--json", "-q")
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert (0, "") == (code, err)
    assert ["Resolved", "Planned", "Retrying", *["FileStarted", "FileFinished"] * 9, "Report"] == kinds
    report = json.loads(out.splitlines()[-1])
    assert (0, "/snapshots/x", True) == (report["exit_code"], report["target"], report["published"])


def test_json_ends_with_an_error_when_the_run_fails() -> None:
    code, out, err = run("get", "play/absent", "--json")
    assert code == 3
    assert {
        "kind": "Error",
        "exit_code": 3,
        "message": "no repo `play/absent`",
        "hint": "check the spelling",
    } == json.loads(out.splitlines()[-1])
    assert err == "error: no repo `play/absent`\nhint: check the spelling\n"


def test_json_ends_with_an_error_even_when_the_command_line_is_wrong() -> None:
    code, out, _ = run("get", "--json", "a/b", "--connections", "0")
    assert (2, 2) == (code, json.loads(out)["exit_code"])


def test_a_dry_run_is_a_table_and_ends_with_the_path() -> None:
    code, out, err = run("get", "play/x", "--dry-run")
    assert (0, "") == (code, err)
    assert [
        "keep   650 B  config.json",
        "fetch   4 MB  model-00001.safetensors",
        "2 files, 4 MB: 4 MB to fetch, 4 MB of disk needed",
        "/snapshots/x",
    ] == out.splitlines()


def test_a_dry_run_as_json_is_one_object() -> None:
    _, out, _ = run("get", "play/x", "--dry-run", "--json")
    assert ["keep", "fetch"] == [file["action"] for file in json.loads(out)["files"]]


def test_a_reader_that_goes_away_ends_nothing() -> None:
    """`fetchverify get --json … | head -1`: the files matter more than their log."""
    for args in (["get", "play/some", "--json"], ["get", "play/some"], ["get", "play/x", "--dry-run"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, FAKE, *args],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=60,
            check=False,
        )
        os.close(write)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "BrokenPipe" not in done.stderr


def test_a_full_disk_behind_stdout_is_told() -> None:
    """The caller must not take an empty answer for a path."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, FAKE, "get", "play/nothing", "-q"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert (5, "error: cannot write to stdout: No space left on device\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "0<&-"])
def test_closed_descriptors_are_no_trap(closed: str) -> None:
    """Python prints to stdout where stderr is missing, and the first file opened becomes descriptor 2."""
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, FAKE, "get", "play/some"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert (0, "" if ">&- " in closed else "/snapshots/x\n") == (done.returncode, done.stdout)


# --- how it ends ---------------------------------------------------------------------------------------------


def test_failures_come_last_with_a_hint_each_and_no_path() -> None:
    code, out, err = run("get", "play/corrupt")
    assert (1, "") == (code, out)
    assert [
        "1 bad copy lies in quarantine",
        "the snapshot is not complete: its revision was not moved",
        "error: `bad.bin` is corrupt: came with another sha256",
        "hint: the server sends bad bytes; try another one with `--endpoint`",
        "1 of 2 files, 1 MB verified in 0.4 s; 1 fetched, 1 MB received (2.5 MB/s)",
    ] == err.splitlines()


def test_a_file_that_came_corrupted_once_is_reported() -> None:
    code, out, err = run("get", "play/refetched")
    assert (0, "/snapshots/x\n") == (code, out)
    assert [
        "`refetched-0.bin` came corrupted and was fetched again; it is proved now",
        "1 bad copy lies in quarantine",
        "1 file, 1 MB verified in 0.4 s; 1 fetched twice (bad bytes came first), 2 MB received (5 MB/s)",
    ] == err.splitlines()


def test_many_failures_are_counted_and_not_scrolled() -> None:
    code, _, err = run("get", "play/unreachable", "-q")
    assert code == 4
    assert (21, "error: 10 more files failed; `--json` names all") == (err.count("error: "), err.splitlines()[-1])


def test_a_disk_that_dies_under_a_look_is_no_bug() -> None:
    """Reads are everywhere, and each may be the first to find out."""
    code, out, err = run("get", "play/dead-disk")
    assert (5, "") == (code, out)
    assert [
        "error: cannot use `/mnt/x`: Input/output error (EIO)",
        "hint: the device reports failures; look at `dmesg` and at its health before trying again",
    ] == err.splitlines()


def test_a_bug_is_told_without_secrets_and_without_a_traceback() -> None:
    code, out, err = run("get", "play/bug")
    assert (70, "") == (code, out)
    assert err.splitlines()[0].startswith("error: unexpected KeyError: ")
    assert "this is a bug" in err
    verbose = run("get", "play/bug", "-v")[2]
    assert "Traceback" not in err
    assert "Traceback" in verbose
    for secret in ("abc&", "def", "pw@", "hf_abcdefgh"):
        assert secret not in err.replace("def ", "")
    assert "sig=" not in verbose
    assert "hf_abc" not in verbose.replace('hf_abcdefghijklmnop")', "")  # the fake's own source line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["get"], "error: missing argument `REPO_ID`\nhint: see `fetchverify get --help`\n"),
        (["gte"], "error: no such command `gte`"),
        (["get", "a/b", "--connections", "65"], "error: invalid value for `--connections`"),
        (["get", "a/b", "--limit-rate", "fast"], "error: invalid value for `--limit-rate`: `fast` is no rate"),
        (["get", "a/b", "--layout", "gguf"], "error: invalid value for `--layout`"),
        (["get", "a/b", "-q", "-v"], "error: `--quiet` and `--verbose` exclude each other"),
        (["get", "a/b", "--token", "x", "--token-file", "y"], "error: `--token` and `--token-file` exclude"),
        (["get", "a/b", "--token-file", "/nonexistent"], "error: cannot read the token from `/nonexistent`: No such"),
        (["get", "a/b", "--token-file", "/dev/null"], "error: there is no token in `/dev/null`"),
    ],
)
def test_a_wrong_command_line_ends_with_2(args: list[str], said: str) -> None:
    code, out, err = run(*args)
    assert (2, "") == (code, out)
    assert err.startswith(said), err


def test_a_token_that_is_no_token_is_not_repeated() -> None:
    code, _, err = run("get", "a/b", "--token", "hf_secret\r\nHost: evil")
    assert code == 2
    assert "secret" not in err


def test_no_command_shows_the_help_on_stderr() -> None:
    code, out, err = run()
    assert (2, "") == (code, out)
    assert "Commands:" in err


# --- signals -------------------------------------------------------------------------------------------------


def start(*args: str) -> subprocess.Popen[str]:
    """Return a run that has said `ready`."""
    process = subprocess.Popen(
        [sys.executable, FAKE, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment(),
    )
    assert process.stderr is not None
    while "ready" not in (line := process.stderr.readline()):
        assert line, "ended before it was ready"
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_in_order_and_says_how_to_go_on(signum: int, code: int) -> None:
    process = start("get", "play/slow", "--json")
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    name = "interrupted" if code == 130 else "terminated"
    assert [
        "stopping, what arrived is kept; once more to quit at once",
        f"error: {name}: 2 of 4 files published, 502 MB received; whole blocks are kept",
        "hint: run the same command again to go on",
    ] == err.splitlines()
    last = json.loads(out.splitlines()[-1])
    assert ("Error", code) == (last["kind"], last["exit_code"])


def test_a_second_signal_ends_it_at_once() -> None:
    """Clean-up that hangs on a dead disk must not hold the terminal."""
    process = start("get", "play/stuck")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "stopping" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 5


def test_what_breaks_while_stopping_is_still_an_interruption() -> None:
    process = start("get", "play/race")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "bug" not in err


# --- options -------------------------------------------------------------------------------------------------


def test_options_reach_the_run() -> None:
    got = options(
        "a.txt", "b.txt", *["-t", "dataset", "-r", "v1", "--include", "*.json", "--include", "*.txt", "--exclude", "x"]
    )
    assert ("dataset", "v1", "('*.json', '*.txt')", "('x',)", "('a.txt', 'b.txt')") == (
        got["repo_type"],
        got["revision"],
        got["include"],
        got["exclude"],
        got["files"],
    )
    got = options(
        *["--local-dir", "d", "--cache-dir", "c", "--max-workers", "4", "--limit-rate", "50M", "--lock-timeout", "1.5"]
    )
    assert ("d", "c", "4", "52428800", "1.5") == (
        got["to"],
        got["cache_dir"],
        got["connections"],
        got["limit_rate"],
        got["lock_timeout_s"],
    )
    got = options(*["--endpoint", "http://a", "--endpoint", "http://b", "--layout", "original", "--force-download"])
    assert ("('http://a', 'http://b')", "original", "True", "False") == (
        got["endpoint"],
        got["layout"],
        got["force"],
        got["offline"],
    )


def test_defaults_leave_the_choice_to_the_hubs_rules() -> None:
    got = options()
    assert [None] * 7 == [
        got[k] for k in ("to", "cache_dir", "endpoint", "token", "revision", "limit_rate", "lock_timeout_s")
    ]
    assert ("16", "False", "False") == (got["connections"], got["offline"], got["force"])


def test_offline_comes_from_the_environment_too() -> None:
    assert options("--offline")["offline"] == "True"
    assert options(HF_HUB_OFFLINE="1")["offline"] == "True"
    assert options(HF_HUB_OFFLINE="0")["offline"] == "False"


def test_a_token_comes_from_a_file_or_stdin_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_x\n")
    assert options("--token-file", str(tmp_path / "token"))["token"] == "hf_x"
    assert options("--token-file", "-", stdin="hf_y\n")["token"] == "hf_y"
    assert options("--token", "")["token"] == ""


# --- progress ------------------------------------------------------------------------------------------------


class Screen:
    """As much of a terminal as tqdm uses: text, CR, LF, cursor up."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.ever: set[str] = set()

    def feed(self, text: str) -> Screen:
        for token in re.findall(r"\x1b\[\d*[A-Za-z]|.|\n", text, re.DOTALL):
            if token == "\r":
                self.column = 0
            elif token == "\n":
                self.ever.add("".join(self.rows[self.row]).rstrip())
                self.row, self.column = self.row + 1, 0
                while len(self.rows) <= self.row:
                    self.rows.append([])
            elif token == "\x1b[A":
                self.row -= 1
            else:
                assert token[0] != "\x1b", token
                line = self.rows[self.row]
                line.extend(" " * (self.column + 1 - len(line)))
                line[self.column] = token
                self.column += 1
        return self

    def lines(self) -> list[str]:
        return [text for row in self.rows if (text := "".join(row).rstrip())]


def on_a_terminal(
    *args: str, rows: int = 24, columns: int = 110, more: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Return exit code, stdout (a pipe) and what reached stderr (a terminal)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, FAKE, *args], stdout=subprocess.PIPE, stderr=slave, env=environment(**(more or {})), text=True
    )
    os.close(slave)
    seen = b""
    while True:
        select.select([master], [], [], 20)
        try:
            piece = os.read(master, 65536)
        except OSError:  # EIO: the other side was closed
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    out, _ = process.communicate(timeout=20)
    return process.returncode, out, seen.decode()


def test_bars_are_gone_at_the_end_and_notes_stand_whole() -> None:
    code, out, raw = on_a_terminal("get", "play/bars")
    screen = Screen().feed(raw)
    assert (0, "/snapshots/x\n") == (code, out)
    assert [
        "play/x@main (3f2a9c1b): fetching 6 of 6 files, 600 MB",
        "a note amid the bars",
        "\\x1b[31ma hostile one\\x1b[0m",
        "1 file, 1 MB verified in 0.4 s; 1 fetched, 1 MB received (2.5 MB/s)",
    ] == screen.lines()


def test_bars_show_the_whole_and_at_most_four_large_files() -> None:
    _, _, raw = on_a_terminal("get", "play/bars")
    assert re.search(r"\d+%\|[█▏▎▍▌▋▊▉ ]+\| [\d.]+ MB of 600 MB, [\d.]+ MB/s, 0 of 6 files, [\d.]+ s left", raw), raw
    middle = raw[: raw.index("a note amid")]
    assert {"0", "1", "2", "3"} == set(re.findall(r"shard-(\d)", middle))


def test_a_narrow_terminal_breaks_no_line() -> None:
    code, _, raw = on_a_terminal("get", "play/bars", columns=40)
    assert code == 0
    assert all(len(row) <= 40 for row in re.split(r"[\r\n]|\x1b\[A", raw) if "%|" in row)


def test_a_terminal_without_a_size_shows_bars_too() -> None:
    """As that of a fresh container, or under `script` without a terminal."""
    _, _, raw = on_a_terminal("get", "play/bars", rows=0, columns=0)
    assert "%|" in raw


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (["--progress", "never"], {}),
        (["-q"], {}),
        ([], {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}),
        ([], {"TERM": "dumb"}),
    ],
)
def test_bars_can_be_turned_off(args: list[str], more: dict[str, str]) -> None:
    _, _, raw = on_a_terminal("get", "play/bars", *args, more=more)
    assert "%|" not in raw


def test_bars_can_be_forced_where_no_terminal_is() -> None:
    _, out, err = run("get", "play/bars", "--progress", "always", HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert out == "/snapshots/x\n"
    assert "%|" in err
    assert "%|" not in run("get", "play/bars")[2]
