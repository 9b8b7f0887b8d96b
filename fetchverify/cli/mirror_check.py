"""`fetchverify mirror check`: says what is wrong with a config."""

from __future__ import annotations

from pathlib import Path

import click

from fetchverify.cli import mirrors
from fetchverify.cli.help import Command
from fetchverify.errors import ExitCode


@click.command(
    "check",
    cls=Command,
    help="Say what is wrong with CONFIG, line by line; ask nobody and change nothing.",
    examples=("fetchverify mirror check", "fetchverify mirror check /etc/fetchverify/mirror.toml"),
)
@mirrors.config_argument
def command(*, config: Path) -> int:
    """Load the config and print what it sets up."""
    from fetchverify.commands.mirror.setting import load

    setting = load(config)
    number = len(setting.config.entries)
    words = f"{number} entr{'y' if number == 1 else 'ies'}, layout {setting.config.layout}, in {setting.folder}"
    click.echo(f"{config}: {words}")
    return ExitCode.CLEAN
