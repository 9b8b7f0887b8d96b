"""`fetchverify verify`: its options, and the words at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice

if TYPE_CHECKING:
    from fetchverify.core.verified import VerifyReport


@click.command(
    "verify",
    cls=Command,
    help=(
        "Prove what lies in the Hugging Face cache, or in a folder, against the repo's own digests.\n\n"
        "TARGET is a repo in the cache (org/name) or the path of a folder (./name, /data/name): one of "
        "`fetchverify get --to`, one of the hub's client, or a git clone. The commit that was downloaded is the truth, "
        "not today's main. Files that are unchanged since they were last proved are not read again. Nothing is "
        "changed but our own notes of what was proved."
    ),
    examples=(
        "fetchverify verify org/name",
        "fetchverify verify --all --offline",
        "fetchverify verify ./name --deep",
        "fetchverify verify -t dataset org/data --quick --json",
        "fetchverify verify ./name --write-sums",
    ),
)
@click.argument("target", required=False, metavar="[REPO_ID|PATH]")
@option("--all", is_flag=True, group=values.SELECT, help="Every repo in the cache, and what they share.")
@values.repo_type_option
@option(
    "-r",
    "--revision",
    group=values.SELECT,
    help="Hold it against what this branch, tag or commit is today. [default: every commit that is there]",
)
@values.glob_options
@option("--repo", metavar="REPO_ID", group=values.SELECT, help="What the folder holds, where nothing in it says so.")
@values.cache_dir_option
@values.endpoint_option
@values.token_options
@values.offline_option
@option(
    "--quick",
    is_flag=True,
    group=values.RUN,
    help="Sizes, links, and the blocks' checksums kept since the last proof: at the speed of memory.",
)
@option("--deep", is_flag=True, group=values.RUN, help="Read everything again, whatever was proved before.")
@option("--strict", is_flag=True, group=values.RUN, help="Exit with 1 also where something could not be proved.")
@option(
    "--allow-missing",
    is_flag=True,
    group=values.RUN,
    help="Missing files are reported, but are no failure: some were never wanted.",
)
@option(
    "--sums",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.RUN,
    help="Hold a folder against this SHA256SUMS, and nothing else.",
)
@option(
    "--write-sums",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[FILE]",
    group=values.RUN,
    help="Write a SHA256SUMS that `sha256sum -c` takes, into the folder; of a repo in the cache, where you are.",
)
@option(
    "--no-doctor", is_flag=True, group=values.RUN, help="Do not look for weights that are broken in the repo itself."
)
@values.retries_option
@values.show_options
def command(
    *,
    token: str | None,
    token_file: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    offline: bool,
    **rest: Any,
) -> int:
    """Run `commands.verify` and print its report."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    token = values.read_token(token, token_file)

    from huggingface_hub import constants

    from fetchverify.commands import verify
    from fetchverify.commands.verifyoptions import VerifyOptions

    rest["doctor"] = not rest.pop("no_doctor")
    offline = offline or constants.HF_HUB_OFFLINE
    options = VerifyOptions(token=token, offline=offline, details=as_json or verbose or (offline and not quiet), **rest)
    report = voice.run(lambda emit: verify.run(options, emit))
    return tell_report(report, voice, quiet=quiet, every=verbose)


def tell_report(report: VerifyReport, voice: Voice, *, quiet: bool, every: bool) -> int:
    """Print the report of a `verify`; return its exit code."""
    from fetchverify.sinks import verified

    if voice.lines is not None:
        for line in verified.objects(report):
            voice.lines.write(line)
        voice.lines.write(report.as_json())
        return report.exit_code
    from fetchverify.sinks.closing import broken_there

    for text in broken_there(report.broken):
        voice.say(text)
    for text in verified.lines(report, quiet=quiet, every=every):
        voice.print(text)
    return report.exit_code
