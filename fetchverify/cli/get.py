"""`fetchverify get`: its options, and the words at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice
from fetchverify.errors import ExitCode

if TYPE_CHECKING:
    from fetchverify.commands.get import DryRun
    from fetchverify.core.report import Report


@click.command(
    "get",
    cls=Command,
    help=(
        "Download a repo, or some of its FILES, and prove every byte against the repo's own digests.\n\n"
        "REPO_ID is org/name, org/name@revision, hf://org/name or the address of a page on the Hub. "
        "Without --to the files go to the Hugging Face cache, where from_pretrained() finds them. "
        "An interrupted run goes on where it stopped when the same command is given again. "
        "The last line on stdout is the folder that holds the files."
    ),
    examples=(
        "fetchverify get meta-llama/Llama-3.1-8B --layout hf",
        "fetchverify get org/name@v1.0 config.json tokenizer.json",
        "fetchverify get org/name --include '*.safetensors' --to ./name",
        "fetchverify get -t dataset org/data --limit-rate 50M --dry-run",
        'path=$(fetchverify get -q org/name) && ls "$path"',
    ),
)
@click.argument("repo_id")
@click.argument("files", nargs=-1)
@values.repo_type_option
@values.revision_option
@values.glob_options
@option(
    "--layout",
    type=click.Choice(["hf", "original"]),
    group=values.SELECT,
    help="Of a repo that holds the weights twice, take those in this format.",
)
@option(
    "--to",
    "--local-dir",
    "to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    group=values.WHERE,
    help="Plain files in DIR.",
)
@values.cache_dir_option
@values.endpoint_option
@values.token_options
@values.offline_option
@values.connections_option
@values.limit_rate_option
@option(
    "--retries",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="N",
    group=values.RUN,
    help="Failures in a row, without a byte of progress, after which a file is given up.",
)
@values.lock_timeout_option
@option("--force-download", "force", is_flag=True, group=values.RUN, help="Fetch again what is there already.")
@option("--dry-run", is_flag=True, group=values.RUN, help="Show what would be done, and do nothing.")
@values.show_options
def command(
    *,
    repo_id: str,
    files: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    offline: bool,
    limit_rate: int | None,
    **rest: Any,
) -> int:
    """Run `commands.get` and print its report."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    token = values.read_token(token, token_file)

    from huggingface_hub import constants

    from fetchverify.commands import get
    from fetchverify.events import Planned

    options = get.GetOptions(
        repo=repo_id,
        files=files,
        token=token,
        limit_rate=limit_rate or None,
        offline=offline or constants.HF_HUB_OFFLINE,
        **rest,
    )
    result = voice.run(
        lambda emit: get.run(options, emit),
        hide=(Planned,) if options.dry_run else (),  # nothing is being fetched
    )
    if isinstance(result, get.DryRun):
        return _tell_dry_run(result, voice)
    return tell_report(result, voice)


def _tell_dry_run(plan: DryRun, voice: Voice) -> int:
    from fetchverify.sinks import closing

    body = plan.as_json()
    if voice.lines is not None:
        voice.lines.write(body)
    else:
        for line in closing.table(body):
            voice.print(line)
        voice.print(plan.target)
    return ExitCode.CLEAN


def tell_report(report: Report, voice: Voice) -> int:
    """Print the report of a `get`; return its exit code."""
    from fetchverify.sinks import closing

    for line in closing.remarks(report):
        voice.say(line)
    for block in closing.failures(report):
        voice.say(block, warning=True)
    voice.say(closing.summary(report))
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    elif report.published:
        voice.print(report.target)
    return report.exit_code
