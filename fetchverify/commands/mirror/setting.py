"""A mirror's config with everything that follows from it: folders, endpoints, token."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fetchverify.core.mirrorconfig import TEMPLATE, MirrorConfig, MirrorLayout, Problem, parse
from fetchverify.errors import UsageError
from fetchverify.store.disk import Disk
from fetchverify.store.given import read_given
from fetchverify.store.mirrorbook import MirrorBook

DEFAULT = Path("mirror.toml")
_MOST = 16 << 20


class InvalidConfigError(UsageError):
    """The file says something that makes no sense.

    Attributes:
        problems: all of it.
    """

    def __init__(self, path: Path, problems: tuple[Problem, ...]) -> None:
        said = [f"`{path}`, line {one.line}: {one.message}" if one.line else one.message for one in problems]
        super().__init__("\n  ".join(said), hint=f"`fetchverify mirror check {path}` says whether all is well then")
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A mirror, ready to be worked on.

    Attributes:
        folder: where it lies.
        token: None leaves it to the hub's own rules.
    """

    config: MirrorConfig
    folder: Path
    disk: Disk
    book: MirrorBook
    token: str | None = field(default=None, repr=False)
    prometheus: Path | None = None


def load(path: Path) -> Setting:
    """Return what a `mirror.toml` sets up; relative paths in it begin where it lies.

    Raises:
        UsageError: it cannot be read, or is not valid.
        DiskError: the disk that it lies on fails.
    """
    config, base = _read(path)
    folder = base / Path(config.folder).expanduser()
    disk = Disk()
    return Setting(
        config=config,
        folder=folder,
        disk=disk,
        book=MirrorBook(disk, folder, config.layout),
        token=_token(config, base),
        prometheus=None if config.prometheus is None else base / config.prometheus,
    )


def place(path: Path) -> tuple[Path, MirrorLayout]:
    """Return where the mirror of a `mirror.toml` lies and how: all that a reader needs, who may know no token.

    Raises:
        UsageError: it cannot be read, or is not valid.
        DiskError: the disk that it lies on fails.
    """
    config, base = _read(path)
    return base / Path(config.folder).expanduser(), config.layout


def _read(path: Path) -> tuple[MirrorConfig, Path]:
    """Return what a config says, and where its relative paths begin."""
    config, problems = parse(read_given(path, most=_MOST, hint="`fetchverify mirror init` writes one"))
    if config is None:
        raise InvalidConfigError(path, problems)
    return config, path.absolute().parent


def _token(config: MirrorConfig, base: Path) -> str | None:
    if config.token_env is not None:
        found = os.environ.get(config.token_env, "").strip()
        if not found:
            raise UsageError(f"`token_env`: there is no `{config.token_env}` in the environment")
        return found
    if config.token_file is not None:
        found = read_given(base / Path(config.token_file).expanduser(), "`token_file` ").strip()
        if not found:
            raise UsageError(f"`token_file`: `{config.token_file}` is empty")
        return found
    return None


def init(path: Path) -> None:
    """Write a commented config; one that is there stays as it is.

    Raises:
        UsageError: there is one.
        DiskError: it cannot be written.
    """
    if os.path.lexists(path):
        raise UsageError(f"`{path}` is there already", hint=f"`fetchverify mirror check {path}` looks at it")
    Disk().write_file(path, TEMPLATE.encode())
