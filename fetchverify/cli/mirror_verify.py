"""`fetchverify mirror verify`: its options, and what is bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fetchverify.cli import mirrors, values
from fetchverify.cli.help import Command, option


@click.command(
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
@mirrors.config_argument
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
def command(*, config: Path, as_json: bool, quiet: bool, verbose: bool, progress: str, **rest: Any) -> int:
    """Run `commands.mirror.proving` and print what is bad."""
    voice = mirrors.voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    from fetchverify.commands.mirror import proving

    report = voice.run(lambda emit: proving.run(proving.ProveOptions(config=config, **rest), emit))
    if voice.lines is not None:
        voice.lines.write(report.as_json())
        return report.exit_code
    from fetchverify.sinks.human import printable, size

    for one in report.bad:
        what = "missing" if one.missing else "corrupt"
        voice.print(printable(f"{one.repo_id}  {what}: {one.path}; `fetchverify mirror sync` mends it"))
    of = f"{size(report.size)} of {size(report.all_size)} hashed, {report.files:,} of {report.all_files:,} files"
    voice.say(of)
    return report.exit_code
