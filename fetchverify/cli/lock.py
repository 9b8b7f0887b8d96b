"""`fetchverify lock`: its options, and the words about what moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice
from fetchverify.errors import ExitCode

if TYPE_CHECKING:
    from fetchverify.commands.lock import LockReport
    from fetchverify.core.pins import Change, Move

_MOST_CHANGES = 50


@click.command(
    "lock",
    cls=Command,
    help=(
        "Pin repos: write the commit of each REPO_ID, and path, size and digest of its every file, to a file "
        "that is made for review in a diff. fetchverify get --locked then fetches exactly that, "
        "and fails where the Hub says otherwise.\n\n"
        "What FILE pins already stays as it is; --update asks again, for the named repos or all, and shows what moved."
    ),
    examples=(
        "fetchverify lock org/name org/data@v1.0 -o models.lock",
        "fetchverify lock -t dataset org/data",
        "fetchverify lock --update",
        "fetchverify lock --update org/name --dry-run",
    ),
)
@click.argument("repos", metavar="[REPO_ID]...", nargs=-1)
@option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("models.lock"),
    show_default=True,
    metavar="FILE",
    group=values.WHERE,
    help="The lock file.",
)
@option("--update", is_flag=True, group=values.SELECT, help="Move what is pinned to where its revision is now.")
@values.repo_type_option
@values.revision_option
@values.endpoint_option
@values.token_options
@values.connections_option
@values.retries_option
@option("--dry-run", is_flag=True, group=values.RUN, help="Show what would move, and write nothing.")
@values.show_options
def command(
    *,
    token: str | None,
    token_file: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    **rest: Any,
) -> int:
    """Run `commands.lock` and print what moved."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    token = values.read_token(token, token_file)

    from fetchverify.commands import lock

    options = lock.LockOptions(token=token, **rest)
    return _tell(voice.run(lambda emit: lock.run(options, emit)), voice)


def _tell(report: LockReport, voice: Voice) -> int:
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    else:
        for move in report.moves:
            for line in _words(move):
                voice.print(line)
    voice.say(f"`{report.output}` {'was written' if report.written else 'is as it was'}")
    return ExitCode.CLEAN


def _words(move: Move) -> list[str]:
    """Return a move as lines: the repo, then a file a line."""
    what = f"{move.ref.repo_id}@{move.ref.revision}"
    if move.before is None:
        return [f"{what}  pinned at {move.after[:8]}"]
    if move.before == move.after:
        return [f"{what}  stays at {move.after[:8]}"]
    lines = [f"{what}  moved from {move.before[:8]} to {move.after[:8]}"]
    lines += [_line(change) for change in move.changes[:_MOST_CHANGES]]
    if len(move.changes) > _MOST_CHANGES:
        lines.append(f"  and {len(move.changes) - _MOST_CHANGES:,} more; `--json` names all")
    return lines


def _line(change: Change) -> str:
    from fetchverify.sinks import human

    path = human.printable(change.path)
    if change.before is None:
        return f"  + {path}  {human.size(change.after or 0)}"
    if change.after is None:
        return f"  - {path}  {human.size(change.before)}"
    sizes = human.size(change.after)
    if change.before != change.after:
        sizes = f"{human.size(change.before)} -> {sizes}"
    return f"  ~ {path}  {sizes}"
