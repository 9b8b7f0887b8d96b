"""`fetchverify mirror serve`: its options, and the words at its start."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import click

from fetchverify.cli import values
from fetchverify.cli.help import Command, option
from fetchverify.cli.voice import open_voice
from fetchverify.core.mirrorconfig import MirrorLayout
from fetchverify.errors import ExitCode, UsageError


@click.command(
    "serve",
    cls=Command,
    help=(
        "Serve a mirror as a read-only Hub: clients set HF_ENDPOINT to it and work unmodified, without the "
        "internet.\n\n"
        "DIR is a cache of the hub's client, which `get` fills, or with --layout folders one of "
        "<org>/<name>/<commit>/. Without it, where and how the mirror lies is read from --config, or from mirror.toml "
        "where there is one, else it is HF_HUB_CACHE.\n\n"
        "Digests are those of the Hub, so that a client can prove what it gets. Half files, quarantine and what "
        "changed since it was proved are never served. /healthz and /metrics (Prometheus) are open to all. SIGTERM "
        "finishes what is under way.\n\n"
        "Needs pip install 'fetchverify[serve]'."
    ),
    examples=(
        "fetchverify mirror serve",
        "fetchverify mirror serve --config /etc/fetchverify/mirror.toml",
        "fetchverify mirror serve /srv/mirror --host 0.0.0.0 --port 8080 --token-file /etc/fetchverify/tokens",
        "fetchverify mirror serve /srv/mirror --layout folders --only-proved",
        "fetchverify mirror serve /srv/mirror --public-url https://mirror.example.org --json",
    ),
)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path))
@option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="CONFIG",
    group=values.SELECT,
    help="Serve what this mirror.toml keeps.",
)
@option(
    "--layout",
    type=click.Choice(["cache", "folders"]),
    group=values.SELECT,
    help="How DIR lies on disk; cache unless given.",
)
@option("--only-proved", is_flag=True, group=values.SELECT, help="Leave out files that no record vouches for.")
@option("--host", default="127.0.0.1", show_default=True, group=values.WHERE, help="Address to listen on.")
@option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    metavar="N",
    group=values.WHERE,
    help="TCP port to listen on.",
)
@option(
    "--public-url",
    metavar="URL",
    group=values.WHERE,
    help="How clients reach this server, where a proxy stands before it.",
)
@option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.WHERE,
    help="Speak TLS with this certificate (PEM); needs --tls-key.",
)
@option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.WHERE,
    help="The certificate's key (PEM).",
)
@option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    group=values.ACCESS,
    help="Let only bearers of a token in; one a line, read at the start.",
)
@option(
    "--most-clients",
    type=click.IntRange(1, 100_000),
    default=1024,
    show_default=True,
    metavar="N",
    group=values.RUN,
    help="Connections at once; more wait.",
)
@option(
    "--stall-timeout",
    "stall_s",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    group=values.RUN,
    help="Cut off a client that takes no data for so long.",
)
@option(
    "--grace",
    "grace_s",
    type=click.IntRange(1, 86_400),
    default=30,
    show_default=True,
    metavar="SECONDS",
    group=values.RUN,
    help="How long a stop waits for downloads under way.",
)
@option(
    "--access-log/--no-access-log",
    default=True,
    show_default=True,
    group=values.SHOW,
    help="A line an answer on stdout.",
)
@option("--json", "as_json", is_flag=True, group=values.SHOW, help="Those lines as JSON objects.")
@option("-q", "--quiet", is_flag=True, group=values.SHOW, help="Only warnings and errors on stderr.")
def command(
    *,
    directory: Path | None,
    config: Path | None,
    layout: MirrorLayout | None,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    as_json: bool,
    quiet: bool,
    host: str,
    port: int,
    **rest: Any,
) -> int:
    """Serve until a signal."""
    voice = open_voice(as_json=as_json, quiet=quiet, verbose=False, progress="never")
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("`--tls-cert` and `--tls-key` go together")
    tokens = _tokens(token_file)
    root, layout = _place(directory, config, layout)

    from fetchverify.serve import running

    options = running.ServeOptions(
        root=root,
        layout=layout,
        host=host,
        port=port,
        tokens=tokens,
        tls_cert=tls_cert,
        tls_key=tls_key,
        as_json=as_json,
        **rest,
    )
    listener = running.prepare(options)
    scheme = "http" if tls_cert is None else "https"
    shown = f"[{host}]" if ":" in host else host
    voice.say(f"serving `{options.root}`; clients set HF_ENDPOINT={rest['public_url'] or f'{scheme}://{shown}:{port}'}")
    if not tokens and not _is_loopback(host):
        voice.say("whoever reaches this port can read the mirror; `--token-file` lets only some in", warning=True)
    if tokens and tls_cert is None and not _is_loopback(host):
        voice.say("tokens cross the network in the clear; `--tls-cert`, or a proxy that speaks TLS", warning=True)
    running.serve(listener, options)
    voice.say("stopped")
    return ExitCode.CLEAN


def _place(directory: Path | None, config: Path | None, layout: MirrorLayout | None) -> tuple[Path, MirrorLayout]:
    """Return where the mirror lies, and how."""
    if directory is not None:
        if config is not None:
            raise UsageError("a folder and `--config` both say what to serve", hint="leave one of them away")
        return directory, layout or "cache"
    from fetchverify.commands.mirror import setting

    if config is None and layout is None and setting.DEFAULT.is_file():
        config = setting.DEFAULT
    if config is None:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE), layout or "cache"
    root, kept = setting.place(config)
    if layout not in (None, kept):
        raise UsageError(f"`{config}` keeps the layout `{kept}`", hint="leave `--layout` away")
    return root, kept


def _tokens(path: Path | None) -> tuple[str, ...]:
    """Return the tokens of a file; a file without one lets nobody in by mistake of nobody's, so it is refused."""
    if path is None:
        return ()
    from fetchverify.store.given import read_given

    lines = read_given(path, "tokens from ").splitlines()
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UsageError(f"there is no token in `{path}`", hint="write one token a line, or leave `--token-file` away")
    if any(not (token.isascii() and token.isprintable()) or " " in token for token in found):
        raise UsageError(f"a token in `{path}` holds characters that no token has", hint="give one token a line")
    return tuple(found)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
