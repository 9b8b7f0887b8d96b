"""Who may read from an LFS server: passwords of `git credential`, answers of `git-lfs-authenticate` over SSH.

Source: git-lfs `docs/api/authentication.md`, `docs/api/server-discovery.md`; `git-credential(1)`.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from fetchverify.core.gitremote import HttpServer, SshServer, parse_server
from fetchverify.core.lfsapi import are_headers
from fetchverify.core.paths import shown
from fetchverify.errors import AbsentError, FetchverifyError, NetworkError
from fetchverify.net import wire

_SSH_S = 60.0
_EARLY_S = 30.0


class RunGit(Protocol):
    """Runs a git command in the clone and returns what it prints."""

    def __call__(self, *arguments: str, data: bytes = ..., quick: bool = ...) -> bytes:
        """Raise a `FetchverifyError` where it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An LFS server and what it wants to see.

    Attributes:
        headers: for its own origin alone; never shown.
        expires_s: Unix time after which it has to be asked for again, where it is known.
    """

    server: HttpServer
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_s: float | None = None

    @property
    def stale(self) -> bool:
        """True where it is about to expire."""
        return self.expires_s is not None and time.time() > self.expires_s - _EARLY_S


class Access:
    """What we may show to one LFS server; used by one thread at a time.

    Args:
        server: as git's configuration names it.
        endpoint: the Hub; its token is sent where the server is that Hub, and nowhere else.
        git: asks `git credential`.
        ssh_command: `core.sshCommand`, or None.
    """

    def __init__(
        self, server: HttpServer | SshServer, *, endpoint: wire.Endpoint, git: RunGit, ssh_command: str | None = None
    ) -> None:
        self._server = server
        self._endpoint = endpoint
        self._git = git
        self._ssh_command = ssh_command
        self._grant: Grant | None = None
        self._asked: bytes | None = None  # what `git credential` answered
        self._approved = False
        self._renewed = False

    @property
    def is_hub(self) -> bool:
        """True where the server is the configured Hub, whose token it may see."""
        server = self._server if isinstance(self._server, HttpServer) else self._server.fallback
        return wire.origin_of(server.url) == wire.origin_of(self._endpoint.url)

    def grant(self) -> Grant:
        """Return where to ask and with what, as far as that is known without being refused first.

        Raises:
            FetchverifyError: the SSH server refuses.
        """
        if self._grant is None or self._grant.stale:
            self._grant = self._first()
        return self._grant

    def refused(self) -> Grant | None:
        """Return what else may be tried after a 401; None where there is nothing."""
        assert self._grant is not None
        if isinstance(self._server, SshServer) and self._grant.headers:
            if self._renewed:
                return None
            self._renewed, self._grant = True, None  # it may have expired
            return self.grant()
        if self._asked is not None:
            self._tell("reject")
            return None
        server = self._grant.server
        self._asked = self._fill(server)
        if self._asked is None:
            return None
        fields = _fields(self._asked)
        self._grant = Grant(server=server, headers=_basic(fields.get("username", ""), fields.get("password", "")))
        return self._grant

    def accepted(self) -> None:
        """Have git remember a password that was right."""
        self._renewed = False
        if self._asked is not None and not self._approved:
            self._approved = True
            self._tell("approve")

    def _first(self) -> Grant:
        if isinstance(self._server, SshServer):
            return authenticate(self._server, self._ssh_command)
        server = self._server
        if server.password is not None or (server.user is not None and _is_token(server.user)):
            return Grant(server=server, headers=_basic(server.user or "", server.password or ""))
        return Grant(server=server, headers=self._token())

    def _token(self) -> dict[str, str]:
        """Return the Hub's token where the server is the Hub: a clone names servers as it likes."""
        token = self._endpoint.token
        if token is None or not self.is_hub:
            return {}
        return {"Authorization": f"Bearer {token}"}

    def _fill(self, server: HttpServer) -> bytes | None:
        parts = urlsplit(server.url)
        lines = [f"protocol={parts.scheme}", f"host={parts.netloc}", f"path={parts.path.lstrip('/')}"]
        if server.user is not None:
            lines.append(f"username={server.user}")
        try:
            told = self._git("credential", "fill", data="".join(f"{line}\n" for line in lines).encode(), quick=False)
        except FetchverifyError:
            return None
        return told if _fields(told).get("password") else None

    def _tell(self, what: str) -> None:
        assert self._asked is not None
        try:
            self._git("credential", what, data=self._asked)
        except FetchverifyError:
            pass  # a helper's own trouble


def authenticate(server: SshServer, ssh_command: str | None) -> Grant:
    """Ask a git server over SSH where its LFS objects lie, and with which headers.

    Raises:
        AbsentError: it refuses.
        NetworkError: it could not be reached.
    """
    remote = f"git-lfs-authenticate {shlex.quote(server.path)} download"
    port = [] if server.port is None else ["-p", str(server.port)]
    argv = [*_ssh(ssh_command), *port, server.destination, remote]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SSH_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"`{server.destination}` could not be asked over SSH: {type(error).__name__}") from error
    if done.returncode == 127:  # an SSH server that knows git, and not LFS: its web server may
        return Grant(server=server.fallback)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = shown(wire.redact_text(said[-1])) if said else f"exit code {done.returncode}"
        kind = NetworkError if done.returncode == 255 else AbsentError
        raise kind(f"`{server.destination}` refuses over SSH: {why}", hint=f"try `ssh -T {server.destination}`")
    return _granted(done.stdout, server)


def _granted(told: bytes, server: SshServer) -> Grant:
    try:
        answer: Any = json.loads(told)
        headers, href = answer.get("header") or {}, answer.get("href") or server.fallback.url
        found = parse_server(href, derive=False)
        lasts = answer.get("expires_in")
        if not are_headers(headers) or not isinstance(found, HttpServer):
            raise ValueError(href)
    except (ValueError, AttributeError, TypeError) as error:
        message = f"`{server.destination}` answers `git-lfs-authenticate` with something else than git-lfs expects"
        raise AbsentError(message) from error
    expires_s = time.time() + lasts if isinstance(lasts, int) and lasts > 0 else None
    return Grant(server=found, headers=headers, expires_s=expires_s)


def _ssh(configured: str | None) -> list[str]:
    """Return git's SSH command. Source: `git-config(1)`, `core.sshCommand`; `git(1)`, `GIT_SSH_COMMAND`, `GIT_SSH`."""
    command = os.environ.get("GIT_SSH_COMMAND") or configured
    if command:
        return ["sh", "-c", f'{command} "$@"', "ssh"]
    return [os.environ.get("GIT_SSH") or "ssh"]


def _is_token(user: str) -> bool:
    """Return whether a user without a password is a token, as in `https://hf_…@huggingface.co/…`."""
    return user.startswith(("hf_", "ghp_", "github_pat_", "glpat-"))


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _fields(told: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in told.decode(errors="replace").splitlines())
    return {name: value for name, equals, value in lines if equals}
