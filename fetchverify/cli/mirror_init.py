"""`fetchverify mirror init`: writes a config to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from fetchverify.cli import mirrors
from fetchverify.cli.help import Command
from fetchverify.errors import ExitCode


@click.command(
    "init",
    cls=Command,
    help="Write a commented CONFIG to begin with.",
    examples=("fetchverify mirror init", "fetchverify mirror init /etc/fetchverify/mirror.toml"),
)
@mirrors.config_argument
def command(*, config: Path) -> int:
    """Write the template."""
    from fetchverify.commands.mirror.setting import init

    init(config)
    click.echo(config)
    return ExitCode.CLEAN
