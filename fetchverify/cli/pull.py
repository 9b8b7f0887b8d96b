"""`fetchverify pull`, and `fetchverify get` with a path: LFS pointers of a clone become their content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli import values
from fetchverify.cli.get import tell_dry_run, tell_report
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice
from fetchverify.errors import UsageError

if TYPE_CHECKING:
    from fetchverify.store.settle import StoreMode


@click.command(
    "pull",
    cls=Command,
    help=(
        "Replace the LFS pointers in a git clone by their content, as git lfs pull does: resumed where it stopped, "
        "each file proved against its pointer, and written once.\n\n"
        "PATH is a clone, or a folder in one; FILES are paths, folders or globs below it. "
        "Without any, lfs.fetchinclude and lfs.fetchexclude choose. git status is clean afterwards. "
        "What was changed in the work tree is left as it is, and reported. "
        "git-lfs's own store gets the contents where the file system can share their blocks (reflink), "
        "or by --link or --lfs-store."
    ),
    examples=(
        "GIT_LFS_SKIP_SMUDGE=1 git clone https://huggingface.co/org/name && fetchverify pull name",
        "fetchverify pull",
        "fetchverify pull . '*.safetensors' --link",
        "fetchverify pull --exclude 'original/*' --dry-run",
    ),
)
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@click.argument("files", nargs=-1)
@values.glob_options
@values.clone_options
@values.cache_dir_option
@values.endpoint_option
@values.token_options
@values.offline_option
@values.connections_option
@values.limit_rate_option
@values.retries_option
@values.lock_timeout_option
@option("--dry-run", is_flag=True, group=values.RUN, help="Show what would be done, and do nothing.")
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
    """Run `commands.pull` and print its report."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    return run_in_clone(voice, token=values.read_token(token, token_file), **rest)


def run_in_clone(
    voice: Voice, *, link: bool, lfs_store: bool, limit_rate: int | None, offline: bool, **rest: Any
) -> int:
    """Run `commands.pull` with options as click gives them, and print its report."""
    if link and lfs_store:
        raise UsageError("`--link` and `--lfs-store` exclude each other")
    store: StoreMode = "link" if link else "copy" if lfs_store else "reflink"

    from huggingface_hub import constants

    from fetchverify.commands import pull
    from fetchverify.commands.get import DryRun
    from fetchverify.events import Planned

    options = pull.PullOptions(
        store=store, limit_rate=limit_rate or None, offline=offline or constants.HF_HUB_OFFLINE, **rest
    )
    result = voice.run(lambda emit: pull.run(options, emit), hide=(Planned,) if options.dry_run else ())
    return tell_dry_run(result, voice) if isinstance(result, DryRun) else tell_report(result, voice)
