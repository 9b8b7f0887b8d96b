"""`fetchverify doctor`: its options, and the words at its end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import Voice, open_voice
from fetchverify.errors import ExitCode, UsageError


def _number(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return the value, which a range of floats does not tell from NaN."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds", ctx=ctx, param=parameter)
    return value


@click.command(
    "doctor",
    cls=Command,
    help=(
        "Why does this model not load? Look at a file or folder, offline, and say what is wrong and what mends it.\n\n"
        "PATH is a file, a model's folder, a training checkpoint, or the name of a repo in the cache. "
        "Headers and names are read, nothing in a file is executed, nothing is changed. "
        "Exit code 0 says that no error was found, 1 that one was."
    ),
    examples=(
        "fetchverify doctor ./Llama-3.1-8B",
        "fetchverify doctor meta-llama/Llama-3.1-8B",
        "fetchverify doctor output/checkpoint-500 --json",
        "fetchverify doctor ./Llama-3.1-8B --for vllm",
        "fetchverify doctor ./my-llama --against meta-llama/Llama-3.1-8B",
        "fetchverify doctor --accelerate zero3.yaml",
        "fetchverify doctor --explain FV301",
    ),
)
@click.argument("what", required=False, metavar="[PATH]")
@values.repo_type_option
@values.revision_option
@values.cache_dir_option
@option(
    "--sample-budget",
    "sample_budget_s",
    type=click.FloatRange(min=0, max=86400),
    callback=_number,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    group=values.RUN,
    help="How long to look for zeros and NaN among the numbers; 0 reads headers alone.",
)
@option(
    "--deep", is_flag=True, group=values.RUN, help="Hash every file whose digest is on record; else small ones alone."
)
@option(
    "--for",
    "use",
    type=click.Choice(["causal-lm", "adapter", "embedding", "vllm", "diffusers"]),
    group=values.RUN,
    help="Say whether the folder can serve this use.",
)
@option(
    "--against",
    metavar="REPO_ID[@REV]",
    group=values.RUN,
    help="Compare with this repo's own headers, a few KB a shard: tensors, shapes, dtypes, sizes.",
)
@values.endpoint_option
@values.token_options
@option(
    "--accelerate",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="CONFIG",
    group=values.RUN,
    help="Say what a training with this config (Accelerate's YAML, DeepSpeed's JSON) will leave.",
)
@option("--env", is_flag=True, group=values.RUN, help="Print the versions of the libraries that train and load.")
@option("--explain", metavar="CODE", group=values.RUN, help="Say what a finding's code means, and look at nothing.")
@values.show_options
def command(
    *,
    what: str | None,
    explain: str | None,
    accelerate: Path | None,
    against: str | None,
    endpoint: str | None,
    token: str | None,
    token_file: Path | None,
    env: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    progress: str,
    **rest: Any,
) -> int:
    """Run `commands.doctor` and print what it found."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    if explain is not None:
        return _explain(explain, voice)
    if env:
        return _tell_environment(voice)
    if not what and accelerate is None:
        raise UsageError("name what to look at", hint="see `fetchverify doctor --help`")

    from fetchverify.commands import doctor
    from fetchverify.sinks import diagnosed

    if accelerate is not None:
        path = accelerate
        found = voice.run(lambda emit: doctor.run_training(path))
    else:
        repo = None
        if against is not None:
            from fetchverify.commands.comparing import Against

            repo = Against(repo=against, endpoint=endpoint, token=values.read_token(token, token_file))
        options = doctor.DoctorOptions(what=what or ".", against=repo, **rest)
        found = voice.run(lambda emit: doctor.run(options, emit))
    if voice.lines is not None:
        voice.lines.write(found.as_json())
    else:
        for line in diagnosed.lines(found):
            voice.print(line)
    return found.exit_code


def _tell_environment(voice: Voice) -> int:
    from fetchverify.engine import surroundings

    here = surroundings.machine()
    if voice.lines is not None:
        body = {"python": surroundings.python(), "versions": dict(here.versions), "gpus": here.gpus}
        voice.lines.write({"kind": "Environment", **body})
        return ExitCode.CLEAN
    voice.print(f"python        {surroundings.python()}")
    for name in surroundings.PACKAGES:
        voice.print(f"{name:<12}  {here.versions.get(name, 'not installed')}")
    voice.print(f"{'GPUs':<12}  {here.gpus or 'none seen'}")
    old = here.versions.get("transformers", "5").partition(".")[0]
    if old.isdigit() and int(old) < 5:
        voice.print(
            "note: with ZeRO-3 this transformers saves adapters empty; see `fetchverify doctor --explain FV414`"
        )
    return ExitCode.CLEAN


def _explain(code: str, voice: Voice) -> int:
    from fetchverify.core.diagnosis.codes import RULES, explain

    text = explain(code)
    if text is None:
        raise UsageError(f"there is no code `{code}`", hint=f"codes go from {min(RULES)} to {max(RULES)}")
    if voice.lines is not None:
        voice.lines.write({"kind": "Explanation", "code": code.upper(), "text": text})
    else:
        voice.print(text)
    return ExitCode.CLEAN
