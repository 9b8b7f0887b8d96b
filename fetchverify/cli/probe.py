"""`fetchverify probe`: its options, and the words at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import open_voice


@click.command(
    "probe",
    cls=Command,
    help=(
        "Measure the line to a Hub or mirror: is it fit for a long download?\n\n"
        "ENDPOINT is an address such as https://hf-mirror.com; or name a REPO_ID, whose largest file is read. "
        "Nothing is kept. The last line on stdout is the verdict, with the options to use. "
        "Exit code 1 says that the line is not fit, 4 that nobody answers."
    ),
    examples=(
        "fetchverify probe",
        "fetchverify probe meta-llama/Llama-3.1-8B",
        "fetchverify probe https://hf-mirror.com --seconds 10",
        "fetchverify probe --endpoint http://mirror:8080 org/name --json",
    ),
)
@click.argument("what", required=False, metavar="[ENDPOINT|REPO_ID]")
@values.repo_type_option
@values.revision_option
@values.endpoint_option
@values.token_options
@option(
    "--seconds",
    type=click.FloatRange(min=0.5, max=600),
    default=3.0,
    show_default=True,
    metavar="N",
    group=values.RUN,
    help="How long to measure with 1, with 4 and with 16 connections.",
)
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
    """Run `commands.probe` and print what it found."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=verbose, progress=progress)
    token = values.read_token(token, token_file)

    from fetchverify.commands import probe
    from fetchverify.core.lineprobe import judge
    from fetchverify.sinks import probed

    options = probe.ProbeOptions(token=token, **rest)
    found = voice.run(lambda emit: probe.run(options, emit))
    if voice.lines is not None:
        voice.lines.write(found.as_json())
    else:
        for line in probed.lines(found):
            voice.print(line)
        for remark in probed.remarks(found):
            voice.print(f"note: {remark}")
        voice.print(probed.verdict(found))
    return judge(found).exit_code
