"""README says what is true: its tables are rendered again, its commands parsed, its examples run."""

from __future__ import annotations

import ast
import operator
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import fetchverify
from fetchverify import cli
from fetchverify.cli.help import Command
from fetchverify.core.lifecycle import TABLE
from fetchverify.errors import ExitCode
from mock_server.demo import demo_world
from mock_server.hub import MockHub
from tests.docs import readme

ROOT = Path(__file__).parents[2]


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fetchverify", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    return done.stdout


def exit_codes() -> str:
    """Return README's table of exit codes."""
    return "| code | means |\n|---|---|\n" + "".join(f"| {int(code)} | {code.meaning} |\n" for code in ExitCode)


def lifecycle() -> str:
    """Return README's table of a file's states."""
    lines = ["| state | what happens | then |", "|---|---|---|"]
    lines += [
        f"| {state.value} | {what.value.replace('_', ' ')} | {then.value} |" for (state, what), then in TABLE.items()
    ]
    return "\n".join(lines) + "\n"


def test_the_exit_codes_are_the_ones_in_the_code() -> None:
    assert exit_codes() == readme.table("exit codes")


def test_the_lifecycle_is_the_one_in_the_code() -> None:
    assert lifecycle() == readme.table("lifecycle")


def command_of(*names: str) -> click.Command:
    found: click.Command = cli.cli
    for name in names:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), name)
        assert inner is not None, name
        found = inner
    return found


def names_of(*names: str) -> list[tuple[str, ...]]:
    """Return the words of each command that is no group."""
    found = command_of(*names)
    if not isinstance(found, click.Group):
        return [names]
    return [inner for name in sorted(found.list_commands(click.Context(found))) for inner in names_of(*names, name)]


@pytest.mark.parametrize("names", names_of(), ids=" ".join)
def test_every_command_has_help_and_is_in_the_readme(names: tuple[str, ...]) -> None:
    """As in `simonw/sqlite-utils:tests/test_docs.py`."""
    command = command_of(*names)
    assert isinstance(command, Command)
    assert command.help
    assert f"fetchverify {' '.join(names)}" in readme.text()
    assert names[-1] in help_of(*names[:-1])
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, f"{names} {param.opts} has no help"
    assert "Examples:" in help_of(*names)


def test_the_top_level_help_lists_the_exit_codes() -> None:
    text = help_of()
    for code in ExitCode:
        assert re.search(rf"^  {int(code)} +{re.escape(code.meaning)}$", text, re.MULTILINE)


def shown_commands() -> list[str]:
    commands = [command_of(*names) for names in names_of()]
    of_help = {line for command in commands if isinstance(command, Command) for line in command.examples}
    return sorted({*readme.commands(), *(line for line in of_help if line.startswith("fetchverify "))})


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_line_that_is_shown_can_be_parsed(line: str) -> None:
    words = shlex.split(line.partition(" | ")[0], comments=True)
    assert words[0] == "fetchverify"
    names = max((names for names in names_of() if tuple(words[1 : len(names) + 1]) == names), key=len)
    command_of(*names).make_context(names[-1], words[len(names) + 1 :])


def test_each_set_up_command_is_one_line() -> None:
    for which in ("first", "second"):
        assert readme.set_up(which).startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_the_environment_variables_are_named() -> None:
    names = """
        HF_HOME HF_HUB_CACHE HF_TOKEN HF_TOKEN_PATH HF_ENDPOINT HF_HUB_OFFLINE HF_HUB_ETAG_TIMEOUT
        HF_HUB_DOWNLOAD_TIMEOUT HF_HUB_DISABLE_SYMLINKS HF_HUB_DISABLE_PROGRESS_BARS HTTPS_PROXY NO_PROXY SSL_CERT_FILE
    """
    for name in names.split():
        assert f"`{name}`" in readme.text()


def test_the_python_shown_compiles_and_names_what_exists() -> None:
    for code in readme.python():
        compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        for name in re.findall(r"\bfetchverify\.([\w.]+)", code):
            operator.attrgetter(name)(fetchverify)


# --- examples ------------------------------------------------------------------------------------------------


def settled(text: str) -> str:
    """Return output without what differs from run to run: times, speeds, the length of a wait."""
    text = re.sub(r"\(\d+(\.\d+)? [kMG]?B/s\)", "(SPEED)", text)
    text = re.sub(r"\b\d+(\.\d+)? s\b", "TIME", text)
    return re.sub(r'("seconds": )[\d.]+', r"\1TIME", text)


def run(command: str, folder: Path, endpoint: str) -> str:
    """Return what `command` prints, stderr and stdout as they come."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {
        "PATH": f"{folder / 'bin'}{os.pathsep}{env['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(folder / "home"),
        "HF_ENDPOINT": endpoint,
    }
    done = subprocess.run(
        ["sh", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=env,
        timeout=120,
        check=False,
    )
    return done.stdout


def matches(shown: str, printed: str) -> bool:
    """Tell whether the output is the one shown, in which `…` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in settled(shown).split("…"))
    return re.fullmatch(pattern, settled(printed), re.DOTALL) is not None


def test_the_examples_print_what_readme_shows(tmp_path: Path) -> None:
    """In order and in one folder, as a reader would type them."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    # Not the installed commands: the tree under test may not be the one that is installed.
    for name, words in (("fetchverify", "-m fetchverify"), ("python", "")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (bin_ / name).chmod(0o755)
    with MockHub(demo_world()) as hub:
        for example in readme.examples():
            printed = run(example.command, tmp_path, hub.endpoint)
            if not matches(example.output, printed):
                assert example.output == printed, f"$ {example.command}"  # a readable difference
