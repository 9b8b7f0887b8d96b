"""`fetchverify mirror sync`: its options, and what cron mails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fetchverify.cli import mirrors, values
from fetchverify.cli.help import Command, option


@click.command(
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
@mirrors.config_argument
@option("--repo", "repos", multiple=True, metavar="REPO_ID", group=values.SELECT, help="Only this repo; repeatable.")
@option("--wait", is_flag=True, group=values.RUN, help="Wait for another run on this mirror to end.")
@option("--now", is_flag=True, group=values.RUN, help="Also outside the window, and what failed often.")
@option("--dry-run", is_flag=True, group=values.RUN, help="Say what moved, and fetch nothing.")
@values.show_options
def command(
    *,
    config: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    **rest: Any,
) -> int:
    """Run `commands.mirror.sync` and print what moved."""
    voice = mirrors.voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
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

        mirrors.write_metrics(look(config), Path(report.prometheus))
    return report.exit_code
