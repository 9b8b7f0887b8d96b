"""The command line: the commands, signals, exit codes; imports click alone, so that help is quick.

help       how help looks; commands are imported when they are run
values     what people type after an option; options that commands share
voice      how a run talks: stderr, stdout, JSON
get ...    one module a command: its options, and the words at its end
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from fetchverify import __version__
from fetchverify.cli.help import LazyGroup
from fetchverify.cli.voice import Voice, silence
from fetchverify.errors import ExitCode, FetchverifyError

COMMANDS = {
    "get": "Download a repo, or some of its files, and prove every byte.",
    "fix-cache": "Repair the cache, at the cost of the damage.",
    "doctor": "Say why a model does not load: look at a file or folder, offline.",
    "mirror": "Keep a mirror of repos, fresh by cron, and serve it to a network.",
    "probe": "Measure the line to a Hub or mirror: is it fit for a long download?",
    "lock": "Pin repos: their commits, and size and digest of every file.",
    "pull": "Fill the LFS pointers of a git clone, as `git lfs pull` does.",
    "verify": "Prove what lies in the cache or a folder, online or offline.",
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Download models and datasets from the Hugging Face Hub: resumable, and proved byte for byte.",
)
@click.version_option(__version__, prog_name="fetchverify", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /) -> None:
    """Hold the commands; without one, help is the answer to a wrong command line (click's own differs by version)."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)


def _open_standard_streams() -> None:
    """Fill closed standard descriptors: else the first file opened becomes stdout, and takes what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _plain(error: click.ClickException) -> str:
    """Return click's message as ours are written: lower case, literals in backticks, no final period."""
    text = re.sub(r"'([^']*)'", r"`\1`", error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]


def _where_help_is(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"see `{ctx.command_path if ctx else 'fetchverify'} --help`"


# What must not stand in a bug report: signatures in addresses, tokens.
_SECRETS = re.compile(r"(?<=\?)[^\s'\"`<>]*=[^\s'\"`<>]+|hf_[A-Za-z0-9]{8,}|(?<=://)[^/\s@]+(?=@)|(?<=Bearer )\S+")


def _bug(error: Exception, voice: Voice) -> int:
    """Say that we are at fault; the traceback is for those who asked."""
    if voice.terminal is not None:
        voice.terminal.close()
    if voice.verbose:
        import traceback

        with suppress(OSError, ValueError):
            sys.stderr.write(_SECRETS.sub("…", "".join(traceback.format_exception(error))))
    hint = "this is a bug in fetchverify; please report it"
    voice.error(
        _SECRETS.sub("…", f"unexpected {type(error).__name__}: {error}"),
        hint=hint if voice.verbose else f"{hint} with what `-v` shows",
        exit_code=ExitCode.BUG,
    )
    return ExitCode.BUG


def _failing_disk(error: Exception, voice: Voice) -> int | None:
    """Say that a disk fails, where that is what the error says: any look at a path may find out first."""
    from fetchverify.store.diskerrors import failing_disk

    found = failing_disk(error)
    if found is None:
        return None
    voice.error(found.message, hint=found.hint, exit_code=found.exit_code)
    return found.exit_code


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    _open_standard_streams()
    alone, args = args is None, sys.argv[1:] if args is None else args
    if alone:
        # A repo's listing is a million objects in no cycle: looking for some as often as usual takes half the time
        # that planning takes.
        gc.set_threshold(20_000, 20, 50)
    voice = Voice(as_json="--json" in args)
    try:
        code = cli.main(args, prog_name="fetchverify", standalone_mode=False, obj=voice)
    except click.ClickException as error:
        voice.error(_plain(error), hint=_where_help_is(error), exit_code=ExitCode.USAGE)
        code = ExitCode.USAGE
    except FetchverifyError as error:
        voice.error(error.message, hint=error.hint, exit_code=error.exit_code)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        # Before or after the run: inside it the runner takes the signals.
        voice.error("interrupted", hint=None, exit_code=ExitCode.INTERRUPTED)
        code = ExitCode.INTERRUPTED
    except Exception as error:  # the last line of defence: everything else is a bug of ours
        code = _failing_disk(error, voice) or _bug(error, voice)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError:
        silence(sys.stdout)
        code = code or ExitCode.DISK
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody reads it: the interpreter would try once more, and exit with 120
        silence(sys.stderr)
    if alone:
        # Nothing is left to be collected: else the interpreter looks for it several times on its way out, for 40 ms.
        gc.freeze()
    sys.exit(int(code or 0))
