"""The command line: options, help, exit codes; imports click alone, so that help is quick, the rest when it is run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from fetchverify import __version__
from fetchverify.errors import DiskError, ExitCode, FetchverifyError, UsageError

if TYPE_CHECKING:
    from fetchverify.commands.get import DryRun
    from fetchverify.core.report import Report
    from fetchverify.sinks.jsonlines import JsonLines
    from fetchverify.sinks.terminal import ProgressStyle, Terminal

F = TypeVar("F", bound=Callable[..., Any])


# --- help ----------------------------------------------------------------------------------------------------


class _Option(click.Option):
    """An option that knows under which heading the help lists it."""

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class _Command(click.Command):
    """A command whose help groups its options and ends with examples."""

    examples: Sequence[str] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            # Newer clicks list arguments too: the text above tells what they are.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "group", "Help"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=30)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.examples))


class _Group(click.Group):
    """The top: its help lists the commands and the exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), code.meaning) for code in ExitCode])


def option(*args: Any, **kwargs: Any) -> Callable[[F], F]:
    """Declare an option with its `group`."""
    return click.option(*args, cls=_Option, **kwargs)


# --- values --------------------------------------------------------------------------------------------------

_RATE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt])(i?b?)|b)?(?:/s)?", re.IGNORECASE)


def parse_rate(text: str) -> int:
    """Return bytes per second; 0 means no limit.

    `50M` is 50 * 1024 * 1024 as for curl, wget, aria2 and rclone, and so is `50Mi` and `50MiB`; `50MB` is 50,000,000.

    Raises:
        ValueError: this is no rate.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    number, prefix, suffix = found.groups()
    base = 1000 if (suffix or "").lower() == "b" else 1024
    value = float(number) * (base ** ("kmgt".index(prefix.lower()) + 1) if prefix else 1)
    # A limit that rounds to nothing would mean none.
    return max(1, round(value)) if value else 0


if TYPE_CHECKING:
    _RateType = click.ParamType[int]
else:
    _RateType = click.ParamType  # takes no parameter before click 8.4


class _Rate(_RateType):
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_rate(value)
        except ValueError:
            self.fail(f"'{value}' is no rate; write bytes per second such as 500K, 50M or 1.5G", param, ctx)


def _token(token: str | None, token_file: Path | None) -> str | None:
    """Return the token as given; None leaves it to the hub's own rules."""
    if token is not None and token_file is not None:
        raise UsageError("`--token` and `--token-file` exclude each other")
    if token_file is not None:
        try:
            token = sys.stdin.readline() if str(token_file) == "-" else token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(f"cannot read the token from `{token_file}`: {why}") from None
        token = token.strip()
        if not token:
            raise UsageError(f"there is no token in `{token_file}`")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        # It would break the request's head; and it must not be quoted here.
        raise UsageError("the token holds characters that no token has", hint="give the token alone, on one line")
    return token


# --- what a command says -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Voice:
    """How this run talks: filled by the command, read by whoever reports its end."""

    as_json: bool = False
    verbose: bool = False
    terminal: Terminal | None = None
    lines: JsonLines | None = None

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
            # Bytes: a path need not be text that stdout can encode.
            sys.stdout.flush()
            sys.stdout.buffer.write(os.fsencode(text) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _silence(sys.stdout)
        except OSError as error:
            _silence(sys.stdout)
            raise DiskError(f"cannot write to stdout: {error.strerror}") from error


def _silence(stream: Any) -> None:
    """Point the stream at nothing: else the interpreter complains at exit about what it cannot flush."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _progress_style(progress: str, *, chosen: bool, quiet: bool) -> ProgressStyle:
    from huggingface_hub import constants

    if progress == "never" or (not chosen and (quiet or constants.HF_HUB_DISABLE_PROGRESS_BARS)):
        return "none"
    if progress == "always":
        return "bars"
    if quiet:
        return "none"
    return "bars" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "lines"


# --- commands ------------------------------------------------------------------------------------------------


@click.group(
    cls=_Group,
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


_SELECT, _WHERE, _ACCESS, _RUN, _SHOW = "What", "Where to", "Access", "How", "Output"


@cli.command(
    cls=_Command,
    short_help="Download a repo, or some of its files, and prove every byte.",
    help=(
        "Download a repo, or some of its FILES, and prove every byte against the repo's own digests.\n\n"
        "REPO_ID is org/name, org/name@revision, hf://org/name or the address of a page on the Hub. "
        "Without --to the files go to the Hugging Face cache, where from_pretrained() finds them. "
        "An interrupted run goes on where it stopped when the same command is given again. "
        "The last line on stdout is the folder that holds the files."
    ),
)
@click.argument("repo_id")
@click.argument("files", nargs=-1)
@option(
    "-t",
    "--repo-type",
    type=click.Choice(["model", "dataset", "space"]),
    group=_SELECT,
    help="Kind of repo. [default: model, or as REPO_ID says]",
)
@option("-r", "--revision", group=_SELECT, help="Branch, tag or commit. [default: main]")
@option("--include", multiple=True, metavar="GLOB", group=_SELECT, help="Take only files that match; repeatable.")
@option("--exclude", multiple=True, metavar="GLOB", group=_SELECT, help="Leave files that match; repeatable.")
@option(
    "--layout",
    type=click.Choice(["hf", "original"]),
    group=_SELECT,
    help="Of a repo that holds the weights twice, take those in this format.",
)
@option(
    "--to",
    "--local-dir",
    "to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    group=_WHERE,
    help="Plain files in DIR.",
)
@option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    group=_WHERE,
    help="Another cache than HF_HUB_CACHE.",
)
@option("--endpoint", metavar="URL", group=_ACCESS, help="Another Hub or mirror. [default: HF_ENDPOINT]")
@option(
    "--token",
    metavar="TOKEN",
    group=_ACCESS,
    help="Access token; other users can see it in the process list: --token-file or HF_TOKEN is safer.",
)
@option(
    "--token-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    group=_ACCESS,
    help="Read the token from FILE, or from stdin with -.",
)
@option(
    "--offline",
    is_flag=True,
    group=_ACCESS,
    help="Use what is on disk, make no request. [also: HF_HUB_OFFLINE=1]",
)
@option(
    "--connections",
    "--max-workers",
    "connections",
    type=click.IntRange(1, 64),
    default=16,
    show_default=True,
    metavar="N",
    group=_RUN,
    help="Requests under way at once.",
)
@option(
    "--limit-rate",
    type=_Rate(),
    metavar="RATE",
    group=_RUN,
    help="Bytes per second over all connections: 500K, 50M, 1.5G, in powers of 1024 as for curl; 50MB is decimal.",
)
@option(
    "--retries",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="N",
    group=_RUN,
    help="Failures in a row, without a byte of progress, after which a file is given up.",
)
@option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    group=_RUN,
    help="Give up when another process holds a lock for longer; else wait.",
)
@option("--force-download", "force", is_flag=True, group=_RUN, help="Fetch again what is there already.")
@option("--dry-run", is_flag=True, group=_RUN, help="Show what would be done, and do nothing.")
@option("--json", "as_json", is_flag=True, group=_SHOW, help="One JSON object a line on stdout, the report last.")
@option("-q", "--quiet", is_flag=True, group=_SHOW, help="Only warnings and errors on stderr.")
@option("-v", "--verbose", is_flag=True, group=_SHOW, help="More on stderr; a traceback where there is a bug.")
@option(
    "--progress",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    group=_SHOW,
    help="Bars on a terminal, else a line now and then. [also: HF_HUB_DISABLE_PROGRESS_BARS=1]",
)
@click.pass_context
def get(
    ctx: click.Context,
    /,
    *,
    repo_id: str,
    files: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    lock_timeout: float | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    offline: bool,
    limit_rate: int | None,
    **rest: Any,
) -> int:
    """Run `commands.get` and print its report."""
    voice = ctx.ensure_object(_Voice)
    voice.as_json, voice.verbose = as_json, verbose
    if quiet and verbose:
        raise UsageError("`--quiet` and `--verbose` exclude each other")
    token = _token(token, token_file)

    import time

    from huggingface_hub import constants

    from fetchverify.commands import get as command
    from fetchverify.commands.runner import Interrupted, run_command
    from fetchverify.events import Event, Planned
    from fetchverify.sinks.jsonlines import JsonLines
    from fetchverify.sinks.terminal import Terminal

    terminal = voice.terminal = Terminal(
        sys.stderr,
        progress=_progress_style(
            progress,
            chosen=ctx.get_parameter_source("progress") is not ParameterSource.DEFAULT,
            quiet=quiet,
        ),
        level="warning" if quiet else "debug" if verbose else "info",
        clock=time.monotonic,
    )
    lines = voice.lines = JsonLines(sys.stdout, debug=verbose) if as_json else None

    def emit(event: Event) -> None:
        if not (rest["dry_run"] and isinstance(event, Planned)):  # nothing is being fetched
            terminal(event)
        if lines is not None:
            lines(event)

    options = command.GetOptions(
        repo=repo_id,
        files=files,
        token=token,
        limit_rate=limit_rate or None,
        offline=offline or constants.HF_HUB_OFFLINE,
        lock_timeout_s=lock_timeout,
        **rest,
    )
    try:
        result = run_command(
            lambda: command.run(options, emit),
            on_signal=terminal.stopping,
        )
    except Interrupted as interrupted:
        voice.error(
            f"{interrupted}: {terminal.tally.interrupted()}",
            hint="run the same command again to go on",
            exit_code=interrupted.exit_code,
        )
        return interrupted.exit_code
    finally:
        terminal.close()
        if lines is not None and lines.broken:
            _silence(sys.stdout)
    if isinstance(result, command.DryRun):
        return _tell_dry_run(result, voice)
    return _tell_report(result, voice)


get.examples = (  # type: ignore[attr-defined]
    "fetchverify get meta-llama/Llama-3.1-8B --layout hf",
    "fetchverify get org/name@v1.0 config.json tokenizer.json",
    "fetchverify get org/name --include '*.safetensors' --to ./name",
    "fetchverify get -t dataset org/data --limit-rate 50M --dry-run",
    'path=$(fetchverify get -q org/name) && ls "$path"',
)


def _tell_dry_run(plan: DryRun, voice: _Voice) -> int:
    from fetchverify.sinks import closing

    body = plan.as_json()
    if voice.lines is not None:
        voice.lines.write(body)
    else:
        for line in closing.table(body):
            voice.print(line)
        voice.print(plan.target)
    return ExitCode.CLEAN


def _tell_report(report: Report, voice: _Voice) -> int:
    from fetchverify.sinks import closing

    assert voice.terminal is not None
    for line in closing.remarks(report):
        voice.terminal.say(line)
    for block in closing.failures(report):
        voice.terminal.say(block, level="warning")
    voice.terminal.say(closing.summary(report))
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    elif report.published:
        voice.print(report.target)
    return report.exit_code


# --- the process ---------------------------------------------------------------------------------------------


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


def _bug(error: Exception, voice: _Voice) -> int:
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


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    _open_standard_streams()
    args = sys.argv[1:] if args is None else args
    voice = _Voice(as_json="--json" in args)
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
        code = _bug(error, voice)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError:
        _silence(sys.stdout)
        code = code or ExitCode.DISK
    sys.exit(int(code or 0))
