"""Reads README.md: the set-up commands, the examples that run, the rendered tables; needs no more than bare Python.

`python tests/docs/readme.py first|second` prints a set-up command, for `.ci/run`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


@dataclass(frozen=True)
class Example:
    """A command as README shows it, with the output it shows."""

    command: str
    output: str


def text() -> str:
    """Return the README."""
    return README.read_text(encoding="utf-8")


def set_up(which: str) -> str:
    """Return the `first` or `second` set-up command; each is one line."""
    found = re.findall(rf"<!-- set-up: {which} -->\n```sh\n(.*)\n```\n", text())
    if len(found) != 1:
        raise SystemExit(f"README.md holds {len(found)} set-up commands called {which}")
    return str(found[0])


def examples() -> list[Example]:
    """Return the examples that are marked as running, in order; each may build on the ones before."""
    result = []
    for block in re.findall(r"<!-- runs -->\n```console\n(.*?)```\n", text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            result.append(Example(command=command, output=output))
    return result


def table(name: str) -> str:
    """Return the table that follows the marker `<!-- name: … -->`."""
    found = re.findall(rf"<!-- {name}: .*? -->\n((?:\|.*\n)+)", text())
    return str(found[0]) if len(found) == 1 else f"README.md holds {len(found)} tables called {name}"


def commands() -> list[str]:
    """Return each line of a shell block that begins with `fetchverify`, without its comment, and each in a table."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```\n", text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    chains = [line.partition("  #")[0].split(" && ") for line in lines if line.startswith("fetchverify ")]
    shown = [part.strip() for chain in chains for part in chain if part.strip().startswith("fetchverify ")]
    return shown + re.findall(r"^\|.* \| `(fetchverify [^`]*)` \|$", text(), re.MULTILINE)


def python() -> list[str]:
    """Return the blocks of Python."""
    return re.findall(r"```python\n(.*?)```\n", text(), re.DOTALL)


if __name__ == "__main__":
    print(set_up(sys.argv[1]))
