"""`fetchverify mirror status`: the table, and metrics for Prometheus."""

from __future__ import annotations

from pathlib import Path

import click

from fetchverify.cli import mirrors, values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import open_voice


@click.command(
    "status",
    cls=Command,
    help="Say how the mirror stands, from its own book: exit code 1 where a repo fails or is damaged.",
    examples=(
        "fetchverify mirror status",
        "fetchverify mirror status --json",
        "fetchverify mirror status --prometheus /var/lib/node_exporter/fetchverify.prom",
    ),
)
@mirrors.config_argument
@option(
    "--prometheus",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.SHOW,
    help="Write metrics for node_exporter's textfile collector.",
)
@values.show_options
def command(*, config: Path, prometheus: Path | None, as_json: bool, quiet: bool, verbose: bool, progress: str) -> int:
    """Run `commands.mirror.status` and print the table."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    from fetchverify.commands.mirror.status import look

    report = look(config)
    if prometheus is not None:
        mirrors.write_metrics(report, prometheus)
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    elif prometheus is None:
        from fetchverify.sinks.mirrored import status_lines

        for line in status_lines(row.as_json() for row in report.rows):
            voice.print(line)
    return report.exit_code
