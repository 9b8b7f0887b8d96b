"""`fetchverify fix-cache`: its options, and the words at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import open_voice

_PURGE = "Purge (only what is asked for)"


@click.command(
    "fix-cache",
    cls=Command,
    help=(
        "Repair the Hugging Face cache, or some of its repos, at the cost of the damage.\n\n"
        "Everything is verified first; what is corrupt, cut, missing, dangling, a pointer or a web page in place of "
        "content is published again: relinked where good bytes are here, else fetched, and of files that fetchverify "
        "wrote only the damaged blocks. Bad copies go to quarantine. Nothing that is whole is deleted, unless an "
        "option below asks for it. Exit code 1 says that damage is left."
    ),
    examples=(
        "fetchverify fix-cache --dry-run",
        "fetchverify fix-cache meta-llama/Llama-3.1-8B",
        "fetchverify fix-cache --offline",
        "fetchverify fix-cache --older-than 30d --pin 'org/*' --pin other/name@v1.0 --dry-run",
        "fetchverify fix-cache --max-size 500GB --empty-quarantine",
    ),
)
@click.argument("repos", nargs=-1, metavar="[REPO_ID]...")
@values.repo_type_option
@values.cache_dir_option
@values.endpoint_option
@values.token_options
@values.offline_option
@option("--dry-run", is_flag=True, group=values.RUN, help="Show what would be done, and do nothing.")
@option("--deep", is_flag=True, group=values.RUN, help="Read everything again, whatever was proved before.")
@values.connections_option
@values.limit_rate_option
@values.retries_option
@values.lock_timeout_option
@option(
    "--older-than",
    type=values.Duration(),
    metavar="AGE",
    group=_PURGE,
    help="Remove revisions that were not used for so long: 30d, 12h, 4w.",
)
@option(
    "--keep-revisions",
    type=click.IntRange(min=1),
    metavar="N",
    group=_PURGE,
    help="Keep N revisions of each repo: those that refs name, and the latest used.",
)
@option(
    "--max-size",
    type=values.Size(),
    metavar="SIZE",
    group=_PURGE,
    help="Remove the least recently used revisions until the cache takes no more: 500GB, 2T.",
)
@option("--unreferenced", is_flag=True, group=_PURGE, help="Remove revisions without a ref, and blobs without a name.")
@option("--empty-quarantine", is_flag=True, group=_PURGE, help="Remove the bad copies that were kept.")
@option(
    "--pin",
    "pins",
    multiple=True,
    metavar="REPO[@REV]",
    group=_PURGE,
    help="Never remove this; `*` stands for anything; repeatable.",
)
@option(
    "--pins",
    "pins_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    group=_PURGE,
    help="Pins, one a line; `#` begins a comment.",
)
@values.show_options
def command(
    *,
    repos: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    offline: bool,
    limit_rate: int | None,
    older_than: float | None,
    keep_revisions: int | None,
    max_size: int | None,
    unreferenced: bool,
    pins: tuple[str, ...],
    pins_file: Path | None,
    **rest: Any,
) -> int:
    """Run `commands.fix_cache` and print its report."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    token = values.read_token(token, token_file)

    from huggingface_hub import constants

    from fetchverify.commands import fix_cache
    from fetchverify.commands.fixing import FixOptions
    from fetchverify.core.purge import PurgeOptions
    from fetchverify.sinks import fixed

    options = FixOptions(
        repos=repos,
        token=token,
        offline=offline or constants.HF_HUB_OFFLINE,
        limit_rate=limit_rate or None,
        purge=PurgeOptions(
            older_than_s=older_than,
            keep_revisions=keep_revisions,
            max_size=max_size,
            unreferenced=unreferenced,
            pins=(*pins, *_read_pins(pins_file)),
        ),
        **rest,
    )
    report = voice.run(lambda emit: fix_cache.run(options, emit))
    if voice.lines is not None:
        voice.lines.write(report.as_json())
    else:
        for text in fixed.lines(report, quiet=quiet):
            voice.print(text)
    return report.exit_code


def _read_pins(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    from fetchverify.store.given import read_given

    lines = read_given(path, "pins from ").splitlines()
    return tuple(text for line in lines if (text := line.partition("#")[0].strip()))
