"""`fetchverify mirror`: its commands, their options, and what they print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice
from fetchverify.errors import ExitCode

if TYPE_CHECKING:
    from fetchverify.commands.mirror.status import StatusReport

_CONFIG = Path("mirror.toml")


class _Group(click.Group):
    """Lists its commands in the order in which they are first needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _config_argument(command: Any) -> Any:
    path = click.Path(dir_okay=False, path_type=Path)
    return click.argument("config", metavar="[CONFIG]", type=path, default=_CONFIG)(command)


@click.group(
    "mirror",
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Keep a copy of repos, fresh by cron or a timer. CONFIG is a mirror.toml, by default the one in this folder.",
)
def command() -> None:
    """Hold the commands."""


@command.command(
    "init",
    cls=Command,
    help="Write a commented CONFIG to begin with.",
    examples=("fetchverify mirror init", "fetchverify mirror init /etc/fetchverify/mirror.toml"),
)
@_config_argument
def init(*, config: Path) -> int:
    """Write the template."""
    from fetchverify.commands.mirror.setting import init

    init(config)
    click.echo(config)
    return ExitCode.CLEAN


@command.command(
    "check",
    cls=Command,
    help="Say what is wrong with CONFIG, line by line; ask nobody and change nothing.",
    examples=("fetchverify mirror check", "fetchverify mirror check /etc/fetchverify/mirror.toml"),
)
@_config_argument
def check(*, config: Path) -> int:
    """Load the config and print what it sets up."""
    from fetchverify.commands.mirror.setting import load

    setting = load(config)
    number = len(setting.config.entries)
    words = f"{number} entr{'y' if number == 1 else 'ies'}, layout {setting.config.layout}, in {setting.folder}"
    click.echo(f"{config}: {words}")
    return ExitCode.CLEAN


@command.command(
    "sync",
    cls=Command,
    help=(
        "Bring the mirror to where the Hub is. Says nothing where nothing moved; exit code 0 when all is fresh, 1 when "
        "something failed, 6 when another run is at work. Readers see one whole commit, before and after.\n\n"
        "An unchanged repo costs one conditional request, an account's repos one request a hundred. What fails is "
        "tried again by the next run, and less often after five failures."
    ),
    examples=(
        "fetchverify mirror sync",
        "fetchverify mirror sync /etc/fetchverify/mirror.toml --wait",
        "fetchverify mirror sync --repo org/name --now",
        "fetchverify mirror sync --dry-run",
    ),
)
@_config_argument
@option("--repo", "repos", multiple=True, metavar="REPO_ID", group=values.SELECT, help="Only this repo; repeatable.")
@option("--wait", is_flag=True, group=values.RUN, help="Wait for another run on this mirror to end.")
@option("--now", is_flag=True, group=values.RUN, help="Also outside the window, and what failed often.")
@option("--dry-run", is_flag=True, group=values.RUN, help="Say what moved, and fetch nothing.")
@values.show_options
def sync(
    *,
    config: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    **rest: Any,
) -> int:
    """Run `commands.mirror.sync` and print what moved."""
    voice = _voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    from fetchverify.commands.mirror import sync

    report = voice.run(lambda emit: sync.run(sync.SyncOptions(config=config, **rest), emit))
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    else:
        from fetchverify.sinks.mirrored import sync_lines

        for line in sync_lines(report):
            voice.print(line)
    if report.prometheus is not None and not rest["dry_run"]:
        from fetchverify.commands.mirror.status import look

        _write_metrics(look(config), Path(report.prometheus))
    return report.exit_code


def _voice(*, as_json: bool, quiet: bool, verbose: bool, progress: str) -> Voice:
    """Return the voice: nobody looks where there is no terminal, and cron mails every word."""
    unattended = not verbose and progress == "auto" and not sys.stderr.isatty()
    return open_voice(as_json=as_json, quiet=quiet or unattended, verbose=verbose, progress=progress)


@command.command(
    "verify",
    cls=Command,
    help=(
        "Hash the mirror's files, those first whose last proof is oldest. What is bad is named, and mended by the next "
        "sync: exit code 1 where there is any."
    ),
    examples=(
        "fetchverify mirror verify",
        "fetchverify mirror verify --sample 5%",
        "fetchverify mirror verify --budget 30m",
    ),
)
@_config_argument
@option(
    "--sample",
    type=values.Share(),
    default="100%",
    show_default=True,
    metavar="SHARE",
    group=values.SELECT,
    help="How much of the mirror to hash, in bytes; 5% every night proves all in three weeks.",
)
@option(
    "--budget",
    "budget_s",
    type=values.Duration(),
    metavar="TIME",
    group=values.RUN,
    help="Begin no other file after so long: 30m, 4h.",
)
@values.show_options
def verify(*, config: Path, as_json: bool, quiet: bool, verbose: bool, progress: str, **rest: Any) -> int:
    """Run `commands.mirror.proving` and print what is bad."""
    voice = _voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    from fetchverify.commands.mirror import proving

    report = voice.run(lambda emit: proving.run(proving.ProveOptions(config=config, **rest), emit))
    if voice.lines is not None:
        voice.lines.write(report.as_json())
        return report.exit_code
    from fetchverify.sinks.human import printable, size

    for one in report.bad:
        voice.print(printable(f"{one.repo_id}  corrupt: {one.path}; `fetchverify mirror sync` mends it"))
    of = f"{size(report.size)} of {size(report.all_size)} hashed, {report.files:,} of {report.all_files:,} files"
    voice.say(of)
    return report.exit_code


@command.command(
    "status",
    cls=Command,
    help="Say how the mirror stands, from its own book: exit code 1 where a repo fails or is damaged.",
    examples=(
        "fetchverify mirror status",
        "fetchverify mirror status --json",
        "fetchverify mirror status --prometheus /var/lib/node_exporter/fetchverify.prom",
    ),
)
@_config_argument
@option(
    "--prometheus",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.SHOW,
    help="Write metrics for node_exporter's textfile collector.",
)
@values.show_options
def status(*, config: Path, prometheus: Path | None, as_json: bool, quiet: bool, verbose: bool, progress: str) -> int:
    """Run `commands.mirror.status` and print the table."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    from fetchverify.commands.mirror.status import look

    report = look(config)
    if prometheus is not None:
        _write_metrics(report, prometheus)
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    elif prometheus is None:
        from fetchverify.sinks.mirrored import status_lines

        for line in status_lines(row.as_json() for row in report.rows):
            voice.print(line)
    return report.exit_code


def _write_metrics(report: StatusReport, path: Path) -> None:
    from fetchverify.sinks.mirrored import prometheus
    from fetchverify.store.disk import Disk

    Disk().write_file(path, prometheus(row.as_json() for row in report.rows).encode(), 0o644)
