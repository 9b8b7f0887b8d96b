"""How help looks: options under headings, examples at the end, commands loaded only when they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import click

from fetchverify.errors import ExitCode

F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option that knows under which heading the help lists it."""

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class Command(click.Command):
    """A command whose help groups its options and ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options under their headings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            # Newer clicks list arguments too: the text above tells what they are.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "group", "Help"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=30)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the examples."""
        with formatter.section("Examples"):
            formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.examples))


class LazyGroup(click.Group):
    """The top: its help lists commands and exit codes without importing a command.

    Args:
        lazy: what each command does, by its name, in the order of the help; module `fetchverify.cli.<name>` (with
            `_` for `-`) holds it as `command`.
        inside: what its commands' modules begin with, for a group within the top.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str], inside: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy
        self.inside = inside

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now."""
        if cmd_name not in self.lazy:
            return None
        command: click.Command = import_module(f"fetchverify.cli.{self.inside}{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lazy.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), code.meaning) for code in ExitCode])


def option(*args: Any, **kwargs: Any) -> Callable[[F], F]:
    """Declare an option with its `group`."""
    return click.option(*args, cls=Option, **kwargs)
