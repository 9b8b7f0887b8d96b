"""The container command that README shows: what it runs inside is a command line of ours."""

from __future__ import annotations

import re
import shlex

import click

from fetchverify.cli import cli
from tests.docs import readme


def container() -> list[str]:
    """Return the words of the command."""
    found = re.search(r"^docker run (?:.*\\\n)*.*$", readme.text(), re.MULTILINE)
    assert found is not None, "README shows no container command"
    return shlex.split(found[0].replace("\\\n", " "))


def test_the_command_inside_parses() -> None:
    script = container()[-1]
    install, run = (shlex.split(part) for part in script.split("&&"))
    assert ["pip", "install"] == install[:2]
    assert "fetchverify" in install
    assert ["python", "-m", "fetchverify"] == run[:3]
    context = click.Context(cli, info_name="fetchverify")
    command: click.Command = cli
    words = run[3:]
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command = found
    command.make_context(run[-1], words)


def test_what_it_reads_and_writes_is_there_inside() -> None:
    """The config's folder and the mirror's are mounted, and its user has a home to install into."""
    words = container()
    mounts = [words[at + 1].split(":")[1] for at, word in enumerate(words) if word == "-v"]
    config = shlex.split(words[-1])[-1]
    assert any(config.startswith(f"{mount}/") for mount in mounts)
    assert "--user" not in words or "HOME=/tmp" in words
