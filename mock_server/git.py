"""Git's side of the mock Hub: bare repos made of the world, smart HTTP by `git http-backend`; access is in `app`."""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from mock_server.content import InMemory
from mock_server.messages import Headers, Request, Response, respond
from mock_server.world import Commit, Repo, RepoFile

_WHO = b"mock <mock@example.org> 1767225600 +0000"
_GLOB = re.compile(r'([*?\[\]\\ "!#])')


class GitRepos:
    """Bare repos below a temporary folder, each made when it is first asked for and again when its refs moved."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._lock = threading.Lock()
        self._made: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        """Remove what was made."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
            self._made.clear()

    def answer(self, repo: Repo, service: str, request: Request) -> Response:
        """Return what `git http-backend` says to a request for `service` (`info/refs`, `git-upload-pack`) of a repo."""
        bare = self._bare(repo)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {
            "GIT_PROJECT_ROOT": str(bare.parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": f"/{bare.name}/{service}",
            "REQUEST_METHOD": request.method,
            "QUERY_STRING": request.query,
            "CONTENT_TYPE": request.headers.get("content-type") or "",
            "CONTENT_LENGTH": str(len(request.body)),
            "REMOTE_ADDR": "127.0.0.1",
        }
        for name, key in (("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "GIT_PROTOCOL")):
            value = request.headers.get(name)
            if value is not None:
                environment[key] = value
        done = subprocess.run(
            ["git", "http-backend"], input=request.body, env=environment, capture_output=True, check=False
        )
        return _from_cgi(done.stdout) if done.stdout else respond(500, done.stderr)

    def _bare(self, repo: Repo) -> Path:
        with self._lock:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="mock-hub-git-"))
            bare = self._root / f"{repo.kind}--{repo.repo_id.replace('/', '--')}.git"
            refs = {f"refs/heads/{name}": commit for name, commit in repo.branches.items()}
            refs |= {f"refs/tags/{name}": commit for name, commit in repo.tags.items()}
            refs |= {name.removeprefix("refs/heads/"): at for name, at in refs.items() if "/refs/" in name}
            if self._made.get(bare.name) != refs:
                shutil.rmtree(bare, ignore_errors=True)
                _git("init", "-q", "--bare", "--initial-branch=main", str(bare))
                _git("-C", str(bare), "fast-import", "--quiet", data=b"".join(_stream(repo, refs)))
                self._made[bare.name] = refs
            return bare


def _git(*arguments: str, data: bytes = b"") -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", *arguments], input=data, env=environment, check=True, capture_output=True)


def _stream(repo: Repo, refs: Mapping[str, str]) -> Iterator[bytes]:
    """Yield a repo as `git fast-import` reads it; LFS files are their pointers."""
    marks: dict[str, int] = {}
    for commit in repo.commits.values():
        marks[commit.id] = len(marks) + 1
        title = commit.title.encode()
        yield b"commit refs/heads/_all\nmark :%d\ncommitter %s\ndata %d\n" % (marks[commit.id], _WHO, len(title))
        yield title + b"\n"
        if commit.parent in marks:
            yield b"from :%d\n" % marks[commit.parent]
        yield b"deleteall\n"
        files = dict(commit.files)
        for path, file in files.items():
            yield from _entry(path, file.pointer() if file.lfs else file.content.read(0, file.size))
        if ".gitattributes" not in files:
            yield from _entry(".gitattributes", attributes(commit))
        # Else the next commit without a parent of its own would continue this one.
        yield b"reset refs/heads/_all\n"
    for name, at in refs.items():
        if at in marks:
            yield b"reset %s\nfrom :%d\n\n" % (name.encode(), marks[at])


def _entry(path: str, data: bytes) -> Iterator[bytes]:
    quoted = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    yield b'M 100644 inline "%s"\ndata %d\n' % (quoted.encode(), len(data))
    yield data + b"\n"


def attributes(commit: Commit) -> bytes:
    """Return a `.gitattributes` that names exactly the commit's LFS files."""
    lines = []
    for path in (path for path, file in commit.files.items() if file.lfs):
        pattern = _GLOB.sub(r"\\\1", path).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'"/{pattern}" filter=lfs diff=lfs merge=lfs -text\n')
    return "".join(lines).encode()


def _from_cgi(output: bytes) -> Response:
    """Return a CGI program's answer. Source: RFC 3875 §6.3."""
    head, _, body = output.partition(b"\r\n\r\n")
    status, fields = 200, []
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        elif name:
            fields.append((name, value.strip()))
    fields.append(("Content-Length", str(len(body))))
    return Response(status=status, headers=Headers(tuple(fields)), content=InMemory(body), stop=len(body))


def lfs_files(repo: Repo) -> Mapping[str, tuple[RepoFile, Commit]]:
    """Return every LFS file of every commit by its sha256."""
    found: dict[str, tuple[RepoFile, Commit]] = {}
    for commit in tuple(repo.commits.values()):
        for file in commit.files.values():
            if file.lfs:
                found.setdefault(file.content.sha256(), (file, commit))
    return found
