"""The command line: a mock Hub that stays, or one that lives as long as a command; the Hub itself is in `hub`."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from mock_server import scenario
from mock_server.hub import MockHub
from mock_server.world import World

_EXAMPLES = """
\b
Examples:
  python -m mock_server --port 8080
  python -m mock_server --root ./repos --port 8080 --scenario flip --ledger requests.jsonl
  python -m mock_server run -- hf download demo/tiny-llama
  python -m mock_server run --scenario cut-reset -- hf download demo/tiny-llama
"""
_NO_PROXY = "localhost,127.0.0.1"


class _Group(click.Group):
    """Shows the names of bundled scenarios at the end of its help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        formatter.write("\nBundled scenarios:\n")
        with formatter.indentation():
            formatter.write_text(", ".join(scenario.bundled()))


def _hub_of(root: Path | None, name: str | None, ledger: Path | None, port: int = 0, cdn_port: int = 0) -> MockHub:
    from mock_server.demo import demo_world  # noqa: PLC0415 - generating the demo takes time

    try:
        rules = scenario.load(name).rules if name is not None else ()
    except scenario.ScenarioError as error:
        raise click.UsageError(str(error)) from error
    world = World.load_root(root) if root is not None else demo_world()
    if not world.repos():
        raise click.UsageError(
            f"`{root}` holds no repos; lay them out as models/ORG/NAME/..., datasets/... and spaces/..."
        )
    return MockHub(world, rules=rules, ledger=ledger, port=port, cdn_port=cdn_port)


_root = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Serve the repos in this folder (models/ORG/NAME/..., datasets/..., spaces/...) in place of the demo ones.",
)
_scenario = click.option(
    "--scenario", "name", metavar="FILE", help="Misbehave as this TOML file, or bundled name, says."
)
_ledger = click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append each request to this file, as a JSON line.",
)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@_root
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the Hub; default: any free one.")
@click.option("--cdn-port", type=click.IntRange(0, 65535), default=0, help="Port of its CDN; default: any free one.")
@_scenario
@_ledger
@click.pass_context
def main(
    context: click.Context, root: Path | None, port: int, cdn_port: int, name: str | None, ledger: Path | None
) -> None:
    """Serve a mock Hugging Face Hub until interrupted, or for the time of a command (`run`)."""
    if context.invoked_subcommand is not None:
        if root or port or cdn_port or name or ledger:
            raise click.UsageError(f"give options after `{context.invoked_subcommand}`")
        return
    with _signals() as (stopped, _), _started(_hub_of(root, name, ledger, port, cdn_port)) as hub:
        for repo in hub.world.repos():
            click.echo(f"{repo.kind:8} {repo.repo_id}" + (" (gated)" if repo.gated else ""))
        click.echo(f"\nexport HF_ENDPOINT={hub.endpoint} HF_HUB_DISABLE_XET=1")
        sys.stdout.flush()
        stopped.wait()


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=_EXAMPLES,
)
@_root
@_scenario
@click.option("--keep-home", is_flag=True, help="Leave HF_HOME as it is; default: a throwaway one.")
@_ledger
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(root: Path | None, name: str | None, keep_home: bool, ledger: Path | None, command: tuple[str, ...]) -> None:
    """Run COMMAND against a mock Hub of its own and exit as it does.

    HF_ENDPOINT points at the Hub, HF_HOME at a throwaway folder. Commands installed beside this Python are found
    without an activated environment. After a signal n the exit code is 128+n.
    """
    hub = _hub_of(root, name, ledger)
    hub.world.any_token = keep_home  # the user's own token is then sent, and not of this world
    with (
        _signals() as (stopped, forward_to),
        _started(hub),
        tempfile.TemporaryDirectory(prefix="mock-hub-home-", ignore_cleanup_errors=True) as home,
    ):
        environment = child_environment(os.environ, hub, None if keep_home else home)
        code = _run_child(command, environment, stopped, forward_to)
    sys.exit(code)


def child_environment(environment: Mapping[str, str], hub: MockHub, home: str | None) -> dict[str, str]:
    """Return the environment of a command that is to see only the mock Hub.

    Proxies stay set for the rest of the world, but are told not to touch this machine. With a new home, paths and
    the token file that would lead out of it are dropped, and so is a token that the Hub does not know: it would
    be refused with 401, as by the real one.
    """
    found = dict(environment)
    if home is not None:
        outside = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_TOKEN_PATH", "HF_ASSETS_CACHE")
        for name in outside:
            found.pop(name, None)
        found["HF_HOME"] = home
    if found.get("HF_TOKEN") and hub.world.user(found["HF_TOKEN"]) is None:
        del found["HF_TOKEN"]
    for name in ("NO_PROXY", "no_proxy"):
        found[name] = f"{found[name]},{_NO_PROXY}" if found.get(name) else _NO_PROXY
    found.update(HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    found.pop("HF_HUB_OFFLINE", None)
    # Not resolved: the python of a virtualenv is a link, and scripts lie beside the link.
    beside = str(Path(sys.executable).parent)
    found["PATH"] = os.pathsep.join([beside, *([found["PATH"]] if found.get("PATH") else [])])
    return found


def _run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    stopped: threading.Event,
    forward_to: list[subprocess.Popen[bytes]],
) -> int:
    try:
        # The search path that counts is the child's.
        child = subprocess.Popen([_find(command[0], environment["PATH"]), *command[1:]], env=dict(environment))
    except FileNotFoundError:
        click.echo(f"error: there is no command `{command[0]}`", err=True)
        return 127
    except PermissionError:
        click.echo(f"error: `{command[0]}` cannot be run", err=True)
        return 126
    forward_to.append(child)
    if stopped.is_set():  # the signal came before there was anybody to pass it to
        child.terminate()
    code = child.wait()
    return 128 - code if code < 0 else code


def _find(command: str, path: str) -> str:
    import shutil  # noqa: PLC0415 - slow to import, needed once

    return shutil.which(command, path=path) or command


@contextmanager
def _started(hub: MockHub) -> Iterator[MockHub]:
    try:
        hub.start()
    except OSError as error:
        raise click.UsageError(f"cannot start: {error}") from error
    try:
        yield hub
    finally:
        hub.close()


@contextmanager
def _signals() -> Iterator[tuple[threading.Event, list[subprocess.Popen[bytes]]]]:
    """Turn SIGINT and SIGTERM into a set event, and pass them on to the processes in the list."""
    stopped = threading.Event()
    children: list[subprocess.Popen[bytes]] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        stopped.set()
        for child in children:
            # A terminal sends its SIGINT to the child as well; a second one is what an impatient user would send.
            if child.poll() is None and not (number == signal.SIGINT and _from_terminal()):
                child.send_signal(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped, children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _from_terminal() -> bool:
    """Tell whether the terminal would send an interrupt to us, and so to the child in our group, itself."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False
