"""Which server a clone's LFS objects are had from, and what of a stranger's words may become a command line."""

from __future__ import annotations

import pytest

from fetchverify.core.gitremote import (
    HttpServer,
    LocalServer,
    Server,
    SshServer,
    choose_remote,
    only_safe,
    parse_server,
    setting,
)
from fetchverify.errors import UsageError


def ssh(destination: str, path: str, fallback: str, port: int | None = None) -> SshServer:
    return SshServer(destination=destination, port=port, path=path, fallback=HttpServer(url=fallback))


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://huggingface.co/org/name", HttpServer(url="https://huggingface.co/org/name.git/info/lfs")),
        ("https://github.com/org/name.git", HttpServer(url="https://github.com/org/name.git/info/lfs")),
        ("https://h:8443/a/b/", HttpServer(url="https://h:8443/a/b.git/info/lfs")),
        ("https://[::1]:8443/a", HttpServer(url="https://[::1]:8443/a.git/info/lfs")),
        (
            "https://me:p%40ss@h/a",
            HttpServer(url="https://h/a.git/info/lfs", user="me", password="p@ss"),
        ),
        ("git@hf.co:org/name", ssh("git@hf.co", "org/name", "https://hf.co/org/name.git/info/lfs")),
        ("hf.co:/org/name", ssh("hf.co", "/org/name", "https://hf.co/org/name.git/info/lfs")),
        (
            "ssh://git@h:2222/org/na%20me.git",
            ssh("git@h", "/org/na me.git", "https://h/org/na%20me.git/info/lfs", 2222),
        ),
        ("git://h/a.git", HttpServer(url="https://h/a.git/info/lfs")),
        ("/srv/repo.git", LocalServer(path="/srv/repo.git")),
        ("../other", LocalServer(path="../other")),
        ("file:///srv/re%20po", LocalServer(path="/srv/re po")),
        ("C:/code/repo", LocalServer(path="C:/code/repo")),
    ],
)
def test_an_address_of_git_leads_to_its_lfs_server(url: str, server: Server) -> None:
    """Source: git-lfs `docs/api/server-discovery.md`."""
    assert server == parse_server(url, derive=True)


def test_an_address_of_lfs_is_taken_as_it_is() -> None:
    assert HttpServer(url="https://h/lfs/x") == parse_server("https://h/lfs/x/", derive=False)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://-oProxyCommand=touch${IFS}x/y",
        "ssh://git@-oProxyCommand=x/y",
        "-oProxyCommand=x:y",
        "git@-host:path",
        "ssh://a$(id)@h/x",
        "git@h:-path",
        "ext::sh -c touch% x",
        "ftp://h/x",
        "https:///x",
        "https://h:0/x",
        "https://h:99999/x",
        "https://h/x\n.evil",
        "https://h/x?y=1",
        "https://h x/y",
    ],
)
def test_hostile_addresses_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        parse_server(url, derive=True)


def test_a_refusal_does_not_tell_a_password() -> None:
    with pytest.raises(UsageError) as refused:
        parse_server("ftp://me:secret@h/x?token=secret", derive=True)
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(parse_server("https://me:secret@h/x", derive=True))


def test_of_a_committed_file_only_safe_keys_are_taken() -> None:
    """Source: `git-lfs-config(5)`, "LFSCONFIG"."""
    safe = {"lfs.url": ["u"], "lfs.fetchinclude": ["i"], "lfs.fetchexclude": ["e"], "remote.o.r.lfsurl": ["r"]}
    others = ["lfs.storage", "core.sshcommand", "credential.helper", "remote.o.url", "url.x.insteadof", "lfs.url.x"]
    assert safe == only_safe(safe | {key: ["x"] for key in others})
    assert "mine" == setting("lfs.url", {"lfs.url": ["other", "mine"]}, {"lfs.url": ["theirs"]})
    assert "theirs" == setting("lfs.url", {}, {"lfs.url": ["theirs"]})
    assert setting("core.sshcommand", {}, {"core.sshcommand": ["rm"]}) is None


def test_the_remote_is_the_branchs_then_the_configured_then_the_only_one() -> None:
    two = {"remote.a.url": ["x"], "remote.b.url": ["y"]}
    assert "a" == choose_remote({"remote.a.url": ["x"]}, branch="main")
    assert "origin" == choose_remote(two, branch="main")
    assert "b" == choose_remote(two | {"remote.lfsdefault": ["b"]}, branch="main")
    assert "a" == choose_remote(two | {"remote.lfsdefault": ["b"], "branch.main.remote": ["a"]}, branch="main")
    assert "b" == choose_remote(two, branch=None, asked="b")
    with pytest.raises(UsageError, match="no remote `c`"):
        choose_remote(two, branch=None, asked="c")
