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
        "The last line on stdout is the folder that holds the files. "
        "A path, such as ., names a git clone: then this is fetchverify pull."
    ),
    examples=(
        "fetchverify get meta-llama/Llama-3.1-8B --layout hf",
        "fetchverify get org/name@v1.0 config.json tokenizer.json",
        "fetchverify get org/name --include '*.safetensors' --to ./name",
        "fetchverify get -t dataset org/data --limit-rate 50M --dry-run",
        "fetchverify get . --link",
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
@values.retries_option
@values.lock_timeout_option
@values.clone_options
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
    remote: str | None,
    references: tuple[Path, ...],
    link: bool,
    lfs_store: bool,
    **rest: Any,
) -> int:
    """Run `commands.get` and print its report; in a clone, `commands.pull`."""
    from fetchverify.core.reference import is_path

    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    token = values.read_token(token, token_file)
    in_clone = {"remote": remote, "references": references, "link": link, "lfs_store": lfs_store}
    if is_path(repo_id):
        return _in_clone(
            voice, Path(repo_id), rest, files=files, token=token, offline=offline, limit_rate=limit_rate, **in_clone
        )
    values.refuse("without the path of a git clone", in_clone)

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
        return tell_dry_run(result, voice)
    return tell_report(result, voice)


# What makes no sense where git says which files there are, at which commit, and where they belong.
_NOT_IN_CLONE = ("repo_type", "revision", "layout", "to", "force")


def _in_clone(voice: Voice, path: Path, rest: dict[str, Any], **more: Any) -> int:
    from fetchverify.cli.pull import run_in_clone

    values.refuse("in a git clone", {name: rest.pop(name) for name in _NOT_IN_CLONE})
    return run_in_clone(voice, path=path, **rest, **more)


def tell_dry_run(plan: DryRun, voice: Voice) -> int:
    """Print what a run would do; return its exit code."""
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
