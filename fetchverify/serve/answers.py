"""A request in, an answer out: access, routes, refusals as the Hub words them. Blocks on the disk; knows no socket.

What the mirror holds for certain to be absent upstream is said as the Hub says it (`X-Error-Code`). What is promised
upstream and only not held here is not: the hub's client keeps an `EntryNotFound` on record as "no such file".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, TypeAlias
from urllib.parse import parse_qs, quote, urlencode

from fetchverify.core import hubjson
from fetchverify.core.httprange import asked_part
from fetchverify.core.hubroute import Target, Verb, parse_target
from fetchverify.core.manifest import Commit, RemoteFile
from fetchverify.core.tree import is_commit
from fetchverify.serve.mirror import Listing, Mirror, Repo
from fetchverify.serve.recent import Headers, Recent
from fetchverify.serve.records import Held, Why

Route: TypeAlias = Verb | Literal["healthz", "metrics"]

MOST_BODY = 4 << 20  # of paths-info: some 40,000 paths

_PAGE = 1000  # entries; as the Hub
_REPOS_PAGE = 100
_MOST_FIELDS = 100_000
_SHORT = 500  # characters of a path that may be kept
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_WHY_NOT: dict[Why, str] = {
    "absent": "is not in this mirror",
    "size": "is incomplete in this mirror",
    "changed": "changed in this mirror since it was proved",
    "unproved": "was not proved in this mirror yet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came.

    Attributes:
        path: quoted, without the query.
        headers: names in lower case; of a repeated one the first.
        origin: `scheme://host` of the connection, for where no better is known.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """Bytes `[start, stop)` of an open file, which whoever sends them closes."""

    fd: int
    start: int
    stop: int
    proved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to send; a body of a HEAD is left out by whoever sends it.

    Attributes:
        headers: without the length.
        length: of the body, be it sent or not.
        route: for counting.
        withheld: why a promised file is not given.
    """

    status: int
    route: Route
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | FilePart = b""
    length: int = 0
    withheld: Why | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may read; without tokens everybody. Only their hashes are kept, all of one length."""

    hashes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, tokens: tuple[str, ...]) -> Access:
        """Return access for the bearers of these tokens."""
        return cls(hashes=tuple(_hash(token) for token in tokens))

    def allows(self, authorization: str | None) -> bool:
        """Return whether an `Authorization` header names a token; takes as long for a wrong one as for a right one."""
        if not self.hashes:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        asked = _hash(token.strip())
        # All are compared: which one matched must not show.
        found = sum([hmac.compare_digest(asked, known) for known in self.hashes])
        return scheme.lower() == "bearer" and found > 0


class Answers:
    """A mirror's answers. Thread-safe; methods block on the disk."""

    def __init__(self, mirror: Mirror, *, access: Access, public_url: str | None = None) -> None:
        """Answer for a mirror.

        Args:
            mirror: what lies there.
            access: who may read it.
            public_url: how clients reach us, where a proxy stands before us; else as they say.
        """
        self._mirror = mirror
        self._access = access
        self._recent = Recent()
        self._public_url = public_url.rstrip("/") if public_url else None

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request.

        Raises:
            OSError: the disk fails.
        """
        target = _target(request.path)
        if target.verb == "nothing":
            return _refusal(target, 404, None, "Sorry, we can't find the page you are looking for.")
        if not self._access.allows(request.headers.get("authorization")):
            # The Hub's own words: its client then speaks of credentials, not of an absent repo.
            refusal = _refusal(target, 401, None, "Invalid credentials in Authorization header")
            return _with(refusal, ("WWW-Authenticate", "Bearer"))
        allowed = ("POST",) if target.verb == "paths-info" else ("GET", "HEAD")
        if request.method not in allowed:
            return _with(_refusal(target, 405, None, "Method Not Allowed"), ("Allow", ", ".join(allowed)))
        if target.verb == "list":
            return self._list(target, request)
        repo = self._mirror.repo(target.kind, target.repo_id)
        if repo is None:
            return _refusal(target, 404, "RepoNotFound", "Repository not found in this mirror")
        if target.verb == "refs":
            pull_requests = _flag(_query(request), "include_prs")
            return _json(target, hubjson.refs(repo.refs(), pull_requests=pull_requests))
        commit = repo.commit(target.revision)
        listing = None if commit is None else repo.listing(commit)
        if commit is None or listing is None:
            return _refusal(target, 404, "RevisionNotFound", "Invalid rev id: this mirror does not hold the revision")
        if target.verb == "resolve":
            return self._resolve(target, request, repo, listing)
        return _with(self._told(target, request, listing), ("X-Repo-Commit", commit))

    def at_once(self, request: Request) -> Answer | None:
        """Return the answer where it is known without a look at the disk, as for a file that was asked for just now."""
        if request.method not in ("GET", "HEAD"):
            return None
        target = _target(request.path)
        if target.verb != "resolve" or not is_commit(target.revision):
            return None
        if not self._access.allows(request.headers.get("authorization")):
            return None
        known = self._recent.get((target.kind, target.repo_id, target.revision, target.path))
        return None if known is None else _part(request, *known)

    def drop_old(self) -> bool:
        """Close files that nobody has asked for lately; returns whether any are left open."""
        return self._recent.drop_old()

    def _told(self, target: Target, request: Request, listing: Listing) -> Answer:
        """Answer from the listing alone."""
        query = _query(request)
        if target.verb == "info":
            only = {name for value in query.get("expand", []) for name in value.split(",")}
            files = tuple(listing.files.values())
            info = hubjson.repo_info(
                target.kind, target.repo_id, listing.commit, files, blobs=_flag(query, "blobs"), only=only
            )
            return _json(target, info)
        if target.verb == "paths-info":
            return _paths_info(target, request, listing)
        if target.path and not _is_folder(target.path, listing):
            return _refusal(target, 404, "EntryNotFound", "no such folder at this revision")
        entries = _entries(listing, target.path, _flag(query, "recursive"))
        start, stop, cursor = hubjson.page_of(_last(query), len(entries), default=_PAGE, most=_PAGE)
        return self._paged(target, request, [hubjson.entry(what) for what in entries[start:stop]], cursor)

    def _list(self, target: Target, request: Request) -> Answer:
        query = _query(request)
        authors, search = set(query.get("author", [])), _last(query).get("search", "").lower()
        names = [
            name
            for name in self._mirror.names(target.kind)
            if (not authors or name.partition("/")[0] in authors) and search in name.lower()
        ]
        start, stop, cursor = hubjson.page_of(_last(query), len(names), default=_REPOS_PAGE, most=_PAGE)
        rows = [hubjson.repo_row(target.kind, name, self._main(target, name)) for name in names[start:stop]]
        return self._paged(target, request, rows, cursor)

    def _main(self, target: Target, name: str) -> Commit | None:
        repo = self._mirror.repo(target.kind, name)
        return None if repo is None else repo.commit("main")

    def _paged(self, target: Target, request: Request, rows: list[hubjson.Json], cursor: str | None) -> Answer:
        found = _json(target, rows)
        if cursor is None:
            return found
        query = urlencode({**_query(request), "cursor": [cursor]}, doseq=True)
        return _with(found, ("Link", f'<{self._url(request)}?{query}>; rel="next"'))

    def _url(self, request: Request) -> str:
        """Return the absolute URL of a request; what a stranger claims to be our name is not repeated unchecked."""
        if self._public_url is not None:
            return self._public_url + request.path
        host = request.headers.get("host", "")
        if _HOST.fullmatch(host) is None:
            return request.origin + request.path
        return f"{request.origin.partition('://')[0]}://{host}{request.path}"

    def _resolve(self, target: Target, request: Request, repo: Repo, listing: Listing) -> Answer:
        began = time.monotonic()
        about: tuple[tuple[str, str], ...] = (("X-Repo-Commit", listing.commit),)
        file = listing.files.get(target.path)
        if file is None:
            return _with(_refusal(target, 404, "EntryNotFound", "Entry not found"), *about)
        held = repo.hold(listing.commit, file)
        if isinstance(held, str):
            refusal = _refusal(target, 404, None, f"the file {_WHY_NOT[held]}")
            return replace(_with(refusal, *about), withheld=held)
        headers = _file_headers(file, about)
        if target.revision == listing.commit:
            key = (target.kind, target.repo_id, target.revision, target.path)
            self._recent.add(key, file, headers, held, began)
        return _part(request, file, headers, held)


def _part(request: Request, file: RemoteFile, headers: Headers, held: Held) -> Answer:
    """Answer with what was asked for of a file that is held."""
    part = asked_part(
        file.size,
        f'"{file.digest.hex}"',
        wanted=request.headers.get("range"),
        if_range=request.headers.get("if-range"),
        if_none_match=request.headers.get("if-none-match"),
    )
    if part.status == 206:
        headers += (("Content-Range", f"bytes {part.start}-{part.stop - 1}/{file.size}"),)
    if part.status == 416:
        headers += (("Content-Range", f"bytes */{file.size}"),)
    body = FilePart(fd=held.fd, start=part.start, stop=part.stop, proved=held.verdict == "proved")
    return Answer(status=part.status, route="resolve", headers=headers, body=body, length=part.stop - part.start)


def _target(path: str) -> Target:
    return _short_target(path) if len(path) <= _SHORT else parse_target(path)


@lru_cache(maxsize=4096)
def _short_target(path: str) -> Target:
    return parse_target(path)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _file_headers(file: RemoteFile, about: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    headers = (
        *about,
        ("ETag", f'"{file.digest.hex}"'),
        ("Accept-Ranges", "bytes"),
        # Never text/html: a repo's page must not run as one of ours.
        ("Content-Type", "application/octet-stream"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Disposition", f"attachment; filename*=UTF-8''{quote(file.path.rpartition('/')[2], safe='')}"),
    )
    if file.is_lfs:
        headers += (("X-Linked-Etag", f'"{file.digest.hex}"'), ("X-Linked-Size", str(file.size)))
    return headers


def _json(target: Target, value: object, status: int = 200) -> Answer:
    body = json.dumps(value, separators=(",", ":")).encode()
    headers = (("Content-Type", "application/json; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
    return Answer(status=status, route=target.verb, headers=headers, body=body, length=len(body))


def _refusal(target: Target, status: int, code: str | None, message: str) -> Answer:
    found = _with(_json(target, {"error": message}, status), ("X-Error-Message", message))
    return found if code is None else _with(found, ("X-Error-Code", code))


def _with(answer: Answer, *headers: tuple[str, str]) -> Answer:
    return replace(answer, headers=(*answer.headers, *headers))


def _query(request: Request) -> dict[str, list[str]]:
    try:
        return parse_qs(request.query, max_num_fields=1000)
    except ValueError:
        return {}


def _last(query: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: values[-1] for name, values in query.items()}


def _flag(query: Mapping[str, list[str]], name: str) -> bool:
    return query.get(name, ["false"])[-1].lower() in {"true", "1", "yes"}


@lru_cache(maxsize=8)  # a client that pages through a million files asks a thousand times
def _entries(listing: Listing, below: str, recursive: bool) -> tuple[RemoteFile | str, ...]:
    return tuple(hubjson.tree_entries(listing.files.values(), below, recursive=recursive))


def _is_folder(path: str, listing: Listing) -> bool:
    start = f"{path}/"
    return any(name.startswith(start) for name in listing.files)


def _paths_info(target: Target, request: Request, listing: Listing) -> Answer:
    """Answer for files and folders by name; what does not exist is left out, as the Hub does."""
    try:
        paths = _asked_paths(request)
    except (ValueError, RecursionError):
        return _refusal(target, 400, None, "the body names no paths")
    found = []
    folders: set[str] | None = None
    for path in paths:
        file = listing.files.get(path)
        if file is not None:
            found.append(hubjson.file_entry(file))
            continue
        if folders is None:
            folders = {name[:at] for name in listing.files for at in range(len(name)) if name[at] == "/"}
        if path in folders:
            found.append(hubjson.folder_entry(path))
    return _json(target, found)


def _asked_paths(request: Request) -> list[str]:
    if request.headers.get("content-type", "").startswith("application/json"):
        body = json.loads(request.body)
        wanted = body.get("paths") if isinstance(body, dict) else None
        paths = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValueError("no list of paths")
    else:
        paths = parse_qs(request.body.decode(), max_num_fields=_MOST_FIELDS).get("paths", [])
    return list(dict.fromkeys(paths))
