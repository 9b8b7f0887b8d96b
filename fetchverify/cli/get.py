"""`fetchverify get`: its options, and the words at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice
from fetchverify.errors import AbsentError, ExitCode, UsageError

if TYPE_CHECKING:
    from fetchverify.commands.get import DryRun, GetOptions
    from fetchverify.core.manifest import RepoKind
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
        "fetchverify get org/name --endpoint https://huggingface.co --endpoint https://mirror.example.org",
        "fetchverify get -t dataset org/data --limit-rate 50M --dry-run",
        "fetchverify get --locked models.lock",
        "fetchverify get . --link",
        'path=$(fetchverify get -q org/name) && ls "$path"',
    ),
)
@click.argument("repo_id", required=False)
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
    "--locked",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.SELECT,
    help="What fetchverify lock wrote to FILE, and nothing else: all its repos, or REPO_ID.",
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
@values.endpoints_option
@values.token_options
@values.offline_option
@values.connections_option
@values.limit_rate_option
@values.retries_option
@values.lock_timeout_option
@values.clone_options
@option("--force-download", "force", is_flag=True, group=values.RUN, help="Fetch again what is there already.")
@option(
    "--no-doctor",
    is_flag=True,
    group=values.RUN,
    help="Do not look for weights that are broken in the repo itself.",
)
@option("--dry-run", is_flag=True, group=values.RUN, help="Show what would be done, and do nothing.")
@values.show_options
def command(
    *,
    repo_id: str | None,
    files: tuple[str, ...],
    locked: Path | None,
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
    if repo_id is not None and is_path(repo_id):
        values.refuse("in a git clone", {"locked": locked})
        return _in_clone(
            voice, Path(repo_id), rest, files=files, token=token, offline=offline, limit_rate=limit_rate, **in_clone
        )
    values.refuse("without the path of a git clone", in_clone)

    from huggingface_hub import constants

    from fetchverify.commands import get

    rest["doctor"] = not rest.pop("no_doctor")
    more = {"token": token, "limit_rate": limit_rate or None, "offline": offline or constants.HF_HUB_OFFLINE, **rest}
    if locked is not None:
        asked = _locked(locked, repo_id, files=files, **more)
    elif repo_id is not None:
        asked = [get.GetOptions(repo=repo_id, files=files, **more)]
    else:
        raise click.UsageError("missing argument 'REPO_ID'", click.get_current_context())
    codes: set[int] = set()
    for number, options in enumerate(asked):
        if number:
            voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
        codes.add(_get(options, voice))

    from fetchverify.core.report import gravest_code

    return gravest_code(codes)


def _get(options: GetOptions, voice: Voice) -> int:
    from fetchverify.commands import get
    from fetchverify.events import Planned

    result = voice.run(
        lambda emit: get.run(options, emit),
        hide=(Planned,) if options.dry_run else (),  # nothing is being fetched
    )
    return tell_dry_run(result, voice) if isinstance(result, get.DryRun) else tell_report(result, voice)


def _locked(
    path: Path,
    repo_id: str | None,
    *,
    repo_type: RepoKind | None,
    revision: str | None,
    to: Path | None,
    endpoint: str | None,
    **more: Any,
) -> list[GetOptions]:
    """Return what a lock file asks for: all its repos, or the one that was named."""
    from fetchverify.commands.get import GetOptions
    from fetchverify.core.reference import parse_reference
    from fetchverify.store.pinfile import read_pins

    pins = read_pins(path)
    if repo_id is not None:
        named = parse_reference(repo_id, kind=repo_type).ref
        said = revision or (named.revision if "@" in repo_id else None)
        pins = tuple(
            pin
            for pin in pins
            if (pin.ref.kind, pin.ref.repo_id) == (named.kind, named.repo_id) and said in (None, pin.ref.revision)
        )
    else:
        values.refuse("with `--locked` and no REPO_ID", {"repo_type": repo_type, "revision": revision})
    if not pins:
        raise AbsentError(f"`{path}` pins no such repo", hint=f"`fetchverify lock {repo_id or 'org/name'} -o {path}`")
    if to is not None and len(pins) > 1:
        raise UsageError(f"`{path}` pins {len(pins)} repos, which `--to` would mix", hint="name one of them")
    return [
        GetOptions(
            repo=pin.ref.repo_id,
            repo_type=pin.ref.kind,
            revision=pin.ref.revision,
            pin=pin,
            to=to,
            endpoint=endpoint,
            **more,
        )
        for pin in pins
    ]


# What makes no sense where git says which files there are, at which commit, and where they belong.
_NOT_IN_CLONE = ("repo_type", "revision", "layout", "to", "force", "no_doctor")


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
