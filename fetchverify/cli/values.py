"""What people type after an option, and the options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fetchverify.cli.help import option
from fetchverify.core.units import parse_duration, parse_rate, parse_share, parse_size
from fetchverify.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

SELECT, WHERE, ACCESS, RUN, CLONE, SHOW = "What", "Where to", "Access", "How", "In a git clone", "Output"

if TYPE_CHECKING:
    _RateType = click.ParamType[int]
else:
    _RateType = click.ParamType  # takes no parameter before click 8.4


class Rate(_RateType):
    """Bytes per second, as `parse_rate` reads them."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes per second; 0 means no limit."""
        if isinstance(value, int):
            return value
        try:
            return parse_rate(value)
        except ValueError as error:
            self.fail(f"'{value}' is no rate; {error}", param, ctx)


if TYPE_CHECKING:
    _DurationType = click.ParamType[float]
else:
    _DurationType = click.ParamType


class Duration(_DurationType):
    """Seconds, written as `30d`, `12h`, `90s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"'{value}' is no duration; {error}", param, ctx)


class Size(_RateType):
    """Bytes, as disks are sold: `500GB` and `500G` are 500,000,000,000; `GiB` is binary."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(f"'{value}' is no size; {error}", param, ctx)


class Share(_DurationType):
    """A part of the whole, written as `5%`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a number above 0, at most 1."""
        if isinstance(value, float):
            return value
        try:
            return parse_share(value)
        except ValueError as error:
            self.fail(f"'{value}' is no share; {error}", param, ctx)


def _from_stdin() -> str:
    try:
        return sys.stdin.readline()
    except (OSError, UnicodeDecodeError):
        raise UsageError("cannot read the token from standard input") from None


def read_token(token: str | None, token_file: Path | None) -> str | None:
    """Return the token as given; None leaves it to the hub's own rules."""
    if token is not None and token_file is not None:
        raise UsageError("`--token` and `--token-file` exclude each other")
    if token_file is not None:
        from fetchverify.store.given import read_given

        token = (_from_stdin() if str(token_file) == "-" else read_given(token_file, "the token from ")).strip()
        if not token:
            raise UsageError(f"there is no token in `{token_file}`")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        # It would break the request's head; and it must not be quoted here.
        raise UsageError("the token holds characters that no token has", hint="give the token alone, on one line")
    return token


def refuse(where: str, given: Mapping[str, Any]) -> None:
    """Refuse options that make no sense together with what else was typed.

    Args:
        where: completes the sentence `--option` makes no sense ...
        given: by parameter; one that is unset is fine.

    Raises:
        UsageError: one is set.
    """
    params = {param.name: param.opts[0] for param in click.get_current_context().command.params}
    for name, value in given.items():
        if value:
            raise UsageError(f"`{params.get(name, name)}` makes no sense {where}")


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that declares the options in the order in which help lists them."""
    return lambda function: reduce(lambda made, declare: declare(made), reversed(options), function)


repo_type_option = option(
    "-t",
    "--repo-type",
    type=click.Choice(["model", "dataset", "space"]),
    group=SELECT,
    help="Kind of repo. [default: model, or as REPO_ID says]",
)
revision_option = option("-r", "--revision", group=SELECT, help="Branch, tag or commit. [default: main]")
glob_options = _together(
    option("--include", multiple=True, metavar="GLOB", group=SELECT, help="Take only files that match; repeatable."),
    option("--exclude", multiple=True, metavar="GLOB", group=SELECT, help="Leave files that match; repeatable."),
)
cache_dir_option = option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    group=WHERE,
    help="Another cache than HF_HUB_CACHE.",
)
endpoint_option = option(
    "--endpoint", metavar="URL", group=ACCESS, help="Another Hub or mirror. [default: HF_ENDPOINT]"
)
# For commands that fetch bytes.
endpoints_option = option(
    "--endpoint",
    "endpoint",
    multiple=True,
    callback=lambda _ctx, _param, value: value or None,
    metavar="URL",
    group=ACCESS,
    help="Another Hub or mirror; repeatable: the first is trusted, bytes come from all. [default: HF_ENDPOINT]",
)
token_options = _together(
    option(
        "--token",
        metavar="TOKEN",
        group=ACCESS,
        help="Access token; other users can see it in the process list: --token-file or HF_TOKEN is safer.",
    ),
    option(
        "--token-file",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        metavar="FILE",
        group=ACCESS,
        help="Read the token from FILE, or from stdin with -.",
    ),
)
offline_option = option(
    "--offline",
    is_flag=True,
    group=ACCESS,
    help="Use what is on disk, make no request. [also: HF_HUB_OFFLINE=1]",
)
connections_option = option(
    "--connections",
    "--max-workers",
    "connections",
    type=click.IntRange(1, 64),
    default=16,
    show_default=True,
    metavar="N",
    group=RUN,
    help="Requests under way at once.",
)
limit_rate_option = option(
    "--limit-rate",
    type=Rate(),
    metavar="RATE",
    group=RUN,
    help="Bytes per second over all connections: 500K, 50M, 1.5G, in powers of 1024 as for curl; 50MB is decimal.",
)
lock_timeout_option = option(
    "--lock-timeout",
    "lock_timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    group=RUN,
    help="Give up when another process holds a lock for longer; else wait.",
)
retries_option = option(
    "--retries",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="N",
    group=RUN,
    help="Failures in a row, without a byte of progress, after which a file is given up.",
)
clone_options = _together(
    option("--remote", metavar="NAME", group=CLONE, help="The remote to ask. [default: as git-lfs chooses it]"),
    option(
        "--reference",
        "references",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        multiple=True,
        metavar="DIR",
        group=CLONE,
        help="Another clone, whose LFS store may hold contents already; repeatable.",
    ),
    option(
        "--link",
        is_flag=True,
        group=CLONE,
        help="Hardlink contents into git-lfs's store: no space, but an edit in place changes both.",
    ),
    option("--lfs-store", is_flag=True, group=CLONE, help="Copy contents into git-lfs's store, as git-lfs does."),
)
# Read by `voice.open_voice`.
show_options = _together(
    option("--json", "as_json", is_flag=True, group=SHOW, help="One JSON object a line on stdout, the report last."),
    option("-q", "--quiet", is_flag=True, group=SHOW, help="Only warnings and errors on stderr."),
    option("-v", "--verbose", is_flag=True, group=SHOW, help="More on stderr; a traceback where there is a bug."),
    option(
        "--progress",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        group=SHOW,
        help="Bars on a terminal, else a line now and then. [also: HF_HUB_DISABLE_PROGRESS_BARS=1]",
    ),
)
