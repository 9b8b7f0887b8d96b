"""Where a clone's LFS objects lie, as git-lfs finds out from git's configuration; reading that is left to `store`.

Source: git-lfs 3.3 `git-lfs-config(5)`, `docs/api/server-discovery.md`, `lfsapi/endpoint_finder.go`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import SplitResult, quote, unquote, urlsplit

from fetchverify.core.paths import shown
from fetchverify.errors import UsageError

Config: TypeAlias = Mapping[str, Sequence[str]]  # `section.name`, lower case as git lists it; the last value holds

# What git-lfs itself takes from a file that anybody may have committed, as far as downloads are concerned.
_SAFE = re.compile(r"lfs\.(?:url|fetchinclude|fetchexclude)|remote\..+\.lfsurl", re.DOTALL)
_SCP = re.compile(r"(?:(?P<user>[^@/:\s]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:@\s\[\]]+):(?P<path>(?!//).+)")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")  # `ext::`, a program that git would run
_HOST = re.compile(r"[A-Za-z0-9._\-:]{1,253}")
_USER = re.compile(r"[A-Za-z0-9._+\-]{1,128}")
_UNFIT = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer:
    """An LFS server by its address, `…/info/lfs`, without user and password.

    Attributes:
        user: as the address named it, or None.
        password: likewise; never shown.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshServer:
    """A git server that is asked over SSH where its LFS objects lie (`git-lfs-authenticate`)."""

    destination: str
    port: int | None
    path: str
    fallback: HttpServer


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A repo on this machine, whose LFS store can be read."""

    path: str


Server: TypeAlias = HttpServer | SshServer | LocalServer


def only_safe(lfsconfig: Config) -> dict[str, Sequence[str]]:
    """Return what may be taken from a committed `.lfsconfig`."""
    return {key: values for key, values in lfsconfig.items() if _SAFE.fullmatch(key)}


def setting(key: str, config: Config, lfsconfig: Config) -> str | None:
    """Return a setting: git's own configuration goes before the committed file."""
    values = config.get(key) or only_safe(lfsconfig).get(key) or [""]
    return values[-1] or None


def choose_remote(config: Config, *, branch: str | None, asked: str | None = None) -> str:
    """Return the name of the remote whose LFS objects are wanted.

    Raises:
        UsageError: there is none of the name that was asked for.
    """
    remotes = {found[1] for key in config if (found := re.fullmatch(r"remote\.(.+)\.url", key, re.DOTALL))}
    if asked is not None:
        if asked not in remotes:
            known = ", ".join(f"`{shown(name)}`" for name in sorted(remotes)) or "none"
            raise UsageError(f"the clone has no remote `{shown(asked)}`", hint=f"it has {known}")
        return asked
    for key in (f"branch.{branch}.remote", "remote.lfsdefault"):
        chosen = (config.get(key) or [""])[-1]
        if chosen in remotes:
            return chosen
    return remotes.pop() if len(remotes) == 1 else "origin"


def parse_server(url: str, *, derive: bool) -> Server:
    """Return the LFS server that an address stands for.

    Args:
        url: of the LFS server itself, or of a git remote.
        derive: it is a remote's: `.git/info/lfs` is added.

    Raises:
        UsageError: it is no address that LFS objects can be had from.
    """
    if _UNFIT.search(url) and "://" in url:
        raise UsageError(f"`{_bare(url)}` is no address of an LFS server")
    parts = _split(url)
    if parts is not None and parts.scheme in ("http", "https"):
        return _http(url, derive=derive)
    if parts is not None and parts.scheme in ("ssh", "git+ssh", "ssh+git"):
        path = unquote(parts.path)
        return _ssh(unquote(parts.username or "") or None, parts.hostname or "", _port(url), path.lstrip("/"), path)
    if parts is not None and parts.scheme == "git":
        return _http(f"https://{parts.hostname}{parts.path}", derive=derive)
    if parts is not None and parts.scheme == "file":
        return LocalServer(path=unquote(parts.path))
    if parts is None and "://" not in url and not _HELPER.match(url):
        scp = None if _DRIVE.match(url) else _SCP.fullmatch(url)
        if scp is not None:
            return _ssh(scp["user"], scp["host"].strip("[]"), None, scp["path"].lstrip("/"), scp["path"])
        return LocalServer(path=url)
    raise UsageError(
        f"`{_bare(url)}` is no address that LFS objects can be had from", hint="set `git config lfs.url https://…`"
    )


def _http(url: str, *, derive: bool) -> HttpServer:
    port, parts = _port(url), urlsplit(url)
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or parts.query or parts.fragment:
        raise UsageError(f"`{_bare(url)}` is no address of an LFS server")
    place = f"[{host}]" if ":" in host else host
    bare = f"{parts.scheme}://{place}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
    if derive:
        bare += "/info/lfs" if bare.endswith(".git") else ".git/info/lfs"
    user, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    return HttpServer(url=bare, user=user or None, password=password or None)


def _ssh(user: str | None, host: str, port: int | None, path: str, sent: str) -> SshServer:
    # A leading dash would be an option of ssh (CVE-2017-1000117).
    if not _HOST.fullmatch(host) or host.startswith("-") or sent.startswith("-") or "\0" in sent:
        raise UsageError("the remote's SSH address cannot be used")
    if user is not None and (not _USER.fullmatch(user) or user.startswith("-")):
        raise UsageError("the user in the remote's SSH address cannot be used")
    destination = host if user is None else f"{user}@{host}"
    fallback = _http(f"https://{f'[{host}]' if ':' in host else host}/{quote(path)}", derive=True)
    return SshServer(destination=destination, port=port, path=sent, fallback=fallback)


def _split(url: str) -> SplitResult | None:
    if "://" not in url:
        return None
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _port(url: str) -> int | None:
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError(f"`{_bare(url)}` names a port that there is not")
    return port


def _bare(url: str) -> str:
    """Return an address for a message: no user, no password, no query."""
    return shown(re.sub(r"(?<=://)[^/]*@", "", url).partition("?")[0])
