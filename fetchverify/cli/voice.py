"""How a run talks: progress and errors on stderr, results on stdout, both as JSON where that was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fetchverify.errors import DiskError, ExitCode, UsageError

if TYPE_CHECKING:
    from fetchverify.events import Emit, Event
    from fetchverify.sinks.jsonlines import JsonLines
    from fetchverify.sinks.terminal import ProgressStyle, Terminal

T = TypeVar("T")


@dataclass(slots=True)
class Voice:
    """How this run talks: opened by the command, read by whoever reports its end.

    Attributes:
        as_json: stdout is one JSON object a line.
        verbose: bugs come with their traceback.
        terminal: the sink on stderr; None until the command opened it.
        lines: the sink on stdout, with `--json`.
    """

    as_json: bool = False
    verbose: bool = False
    terminal: Terminal | None = None
    lines: JsonLines | None = None

    def run(self, main: Callable[[Emit], Awaitable[T]], *, hide: tuple[type[Event], ...] = ()) -> T:
        """Run a command's coroutine under signals and return what it returns.

        Args:
            main: is given where its events go.
            hide: events that are kept from the terminal.

        Raises:
            click.exceptions.Exit: a signal ended it; what is kept was said.
        """
        from fetchverify.commands.runner import Interrupted, run_command

        terminal, lines = self.terminal, self.lines
        assert terminal is not None

        def emit(event: Event) -> None:
            if not isinstance(event, hide):
                terminal(event)
            if lines is not None:
                lines(event)

        try:
            return run_command(lambda: main(emit), on_signal=terminal.stopping)
        except Interrupted as interrupted:
            self.error(
                f"{interrupted}: {terminal.tally.interrupted()}",
                hint="run the same command again to go on",
                exit_code=interrupted.exit_code,
            )
            raise click.exceptions.Exit(int(interrupted.exit_code)) from None
        finally:
            terminal.close()
            if lines is not None and lines.broken:
                silence(sys.stdout)

    def say(self, text: str, *, warning: bool = False) -> None:
        """Print a line on stderr, as loud as the user asked for."""
        assert self.terminal is not None
        self.terminal.say(text, level="warning" if warning else "info")

    def error(self, message: str, *, hint: str | None, exit_code: ExitCode) -> None:
        """Say why the run ended: on stderr for people, and as the last line of JSON where that was asked for."""
        from fetchverify.sinks.human import printable
        from fetchverify.sinks.jsonlines import JsonLines

        if self.terminal is not None:
            self.terminal.close()
        if self.as_json:
            lines = self.lines or JsonLines(sys.stdout)
            lines.write({"kind": "Error", "exit_code": int(exit_code), "message": message, "hint": hint})
        text = f"error: {message}\nhint: {hint}" if hint else f"error: {message}"
        with suppress(OSError, ValueError):
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    def print(self, text: str) -> None:
        """Print a line on stdout; a reader that went away is no error, a full disk is."""
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(_encoded(text) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            silence(sys.stdout)
        except OSError as error:
            silence(sys.stdout)
            raise DiskError(f"cannot write to stdout: {error.strerror}") from error


def _encoded(text: str) -> bytes:
    """Return a line's bytes: a path need not be text that stdout can encode, nor a locale know our own signs."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(sys.getfilesystemencoding(), "backslashreplace")


def silence(stream: Any) -> None:
    """Point the stream at nothing: else the interpreter complains at exit about what it cannot flush."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_voice(*, as_json: bool, quiet: bool, verbose: bool, progress: str) -> Voice:
    """Return the voice of the command that is being run, opened as its `show_options` say.

    Raises:
        UsageError: the options exclude each other.
    """
    ctx = click.get_current_context()
    voice = ctx.ensure_object(Voice)
    voice.as_json, voice.verbose = as_json, verbose
    if quiet and verbose:
        raise UsageError("`--quiet` and `--verbose` exclude each other")

    import time

    from fetchverify.sinks.jsonlines import JsonLines
    from fetchverify.sinks.terminal import Terminal

    chosen = ctx.get_parameter_source("progress") is not ParameterSource.DEFAULT
    voice.terminal = Terminal(
        sys.stderr,
        progress=_progress_style(progress, chosen=chosen, quiet=quiet),
        level="warning" if quiet else "debug" if verbose else "info",
        clock=time.monotonic,
    )
    voice.lines = JsonLines(sys.stdout, debug=verbose) if as_json else None
    return voice


def _progress_style(progress: str, *, chosen: bool, quiet: bool) -> ProgressStyle:
    from huggingface_hub import constants

    if progress == "never" or (not chosen and (quiet or constants.HF_HUB_DISABLE_PROGRESS_BARS)):
        return "none"
    if progress == "always":
        return "bars"
    if quiet:
        return "none"
    return "bars" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "lines"
