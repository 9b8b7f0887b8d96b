"""What the commands of `fetchverify mirror` share: their argument, how they talk, where metrics go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli.voice import Voice, open_voice

if TYPE_CHECKING:
    from fetchverify.commands.mirror.status import StatusReport


def config_argument(command: Any) -> Any:
    """Declare CONFIG."""
    path = click.Path(dir_okay=False, path_type=Path)
    return click.argument("config", metavar="[CONFIG]", type=path, default=Path("mirror.toml"))(command)


def voice(*, as_json: bool, quiet: bool, verbose: bool, progress: str) -> Voice:
    """Return the voice: nobody looks where there is no terminal, and cron mails every word."""
    unattended = not verbose and progress == "auto" and not sys.stderr.isatty()
    return open_voice(as_json=as_json, quiet=quiet or unattended, verbose=verbose, progress=progress)


def write_metrics(report: StatusReport, path: Path) -> None:
    """Write the metrics of a mirror, whole or not at all, readable by all."""
    from fetchverify.sinks.mirrored import prometheus
    from fetchverify.store.disk import Disk

    Disk().write_file(path, prometheus(row.as_json() for row in report.rows).encode(), 0o644)
