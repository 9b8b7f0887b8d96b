"""The mock Hub's answers: request in, response out, no sockets; rules of faults come from outside."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, quote, unquote

from mock_server import api, files, inject, lfs
from mock_server.faults import Exchange, Fault
from mock_server.git import GitRepos, lfs_files
from mock_server.messages import Headers, Origin, Request, Response, asked_range, respond
from mock_server.pages import page
from mock_server.quota import Quota, Quotas
from mock_server.targets import Target, blob_path, parse_target
from mock_server.world import Commit, Repo, RepoFile, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this Hub differs from the usual one."""

    cdn: bool = True
    """LFS files redirect to a second origin; without it the Hub serves them itself, as mirrors do."""
    ttl_s: float = 3600.0
    """How long a signed URL lives."""
    page_size: int = 1000
    drop_headers: frozenset[str] = frozenset()
    """Header fields the Hub never sends."""
    tree: bool = True
    paths_info: bool = True
    """Whether these routes exist."""
    max_unranged: int | None = None
    """The CDN answers 400 to an unranged GET of a larger file (the real one: tens of GB)."""
    lfs_header: bool = False
    """Download actions of the LFS batch API carry their signature in a header, and not in the address."""
    lfs_errors: Mapping[str, int] = field(default_factory=dict)
    """Objects, by path or oid, that the LFS batch API refuses, with the status."""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """Limits of `api` and `resolvers` requests; without them none is ever reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A request with what it concerns already looked up."""

    request: Request
    target: Target
    exchange: Exchange
    refusal: Response | None = None
    repo: Repo | None = None
    commit: Commit | None = None
    file: RepoFile | None = None


class App:
    """Routes, access and answers of one mock Hub; `endpoints` are filled in once its ports are known."""

    def __init__(
        self, world: World, settings: Settings, *, clock: Callable[[], float] = time.time, secret: bytes | None = None
    ) -> None:
        self.world = world
        self.settings = settings
        self.endpoints: dict[Origin, str | None] = {"hub": None, "cdn": None, "other": None}
        self._clock = clock
        self._secret = secret if secret is not None else secrets.token_bytes(16)
        self._quotas = Quotas(clock)
        self.git = GitRepos()
        self._blobs: dict[str, tuple[RepoFile, Commit]] = {}

    def route(self, request: Request) -> Routed:
        """Look up what a request concerns and whether its sender may see it."""
        target = parse_target(request.origin, request.path)
        routed = Routed(request=request, target=target, exchange=_exchange(request, target, size=None))
        routed = self._route_blob(routed) if target.verb == "cdn" else self._route_repo(routed)
        file = routed.file
        if file is None:
            return routed
        exchange = _exchange(request, target, size=file.size)
        due = request.method == "GET" and routed.refusal is None and not self._redirects(routed)
        return replace(routed, exchange=replace(exchange, serves_bytes=due))

    def respond(self, routed: Routed, faults: Sequence[Fault] = ()) -> Response:
        """Return the answer to a request, made wrong by the faults that hit it."""
        request = inject.on_request(routed.request, faults)
        response = self._limited(routed) or routed.refusal or self._answer(replace(routed, request=request), faults)
        if request.origin == "hub":
            name = "resolvers" if routed.target.verb == "resolve" else "api"
            for key, value in self._quotas.headers(name, self.settings.quotas.get(name)):
                response = response.header(key, value)
            if self.settings.drop_headers:
                response = replace(response, headers=response.headers.without(*self.settings.drop_headers))
        return inject.on_response(response, faults, request=request, endpoints=self.endpoints)

    # lookup and access

    def _limited(self, routed: Routed) -> Response | None:
        name = "resolvers" if routed.target.verb == "resolve" else "api"
        quota = self.settings.quotas.get(name)
        if routed.request.origin != "hub" or quota is None or self._quotas.take(name, quota):
            return None
        return respond(429, b"Too Many Requests", x_error_message="You have reached your rate limit")

    def _route_blob(self, routed: Routed) -> Routed:
        request, blob = routed.request, self._blobs.get(routed.request.path)
        if request.origin == "cdn" and not self._signed(request):
            return replace(routed, refusal=inject.expired())
        if blob is None:
            return replace(routed, refusal=respond(404, b"Not Found"))
        return replace(routed, file=blob[0], commit=blob[1])

    def _route_repo(self, routed: Routed) -> Routed:
        request, target, world = routed.request, routed.target, self.world
        token = request.token if request.origin == "hub" else None
        if token is not None and world.user(token) is None:
            message = "Invalid credentials in Authorization header"
            return replace(routed, refusal=_challenged(target, _refuse(401, None, message)))
        if target.repo_id is None:
            return routed
        repo = world.find(target.kind, target.repo_id)
        if repo is None and (new := world.renamed.get((target.kind, target.repo_id))) is not None:
            old_part, new_part = f"/{quote(target.repo_id)}", f"/{quote(new)}"
            where = request.path.replace(old_part, new_part, 1) + (f"?{request.query}" if request.query else "")
            return replace(routed, refusal=respond(307, b"Temporary Redirect", location=where))
        open_to_all = request.origin == "other"
        allowed = open_to_all or (repo is not None and token is not None and token in repo.tokens)
        if repo is None or (repo.private and not allowed):
            if token is None and not open_to_all:
                refusal = _refuse(401, "RepoNotFound", "Invalid username or password.")
                return replace(routed, refusal=_challenged(target, refusal))
            return replace(routed, refusal=_refuse(404, "RepoNotFound", "Repository not found"))
        routed = replace(routed, repo=repo)
        if repo.disabled:
            return replace(routed, refusal=_refuse(403, None, "Access to this resource is disabled."))
        if target.verb in ("resolve", "git", "lfs") and repo.gated and not allowed:
            message = f"Access to {target.kind} {repo.repo_id} is restricted."
            refusal = _refuse(401 if token is None else 403, "GatedRepo", message)
            return replace(routed, refusal=_challenged(target, refusal))
        if target.verb in ("refs", "git", "lfs"):
            return routed
        commit = repo.at(target.revision or "main")
        if commit is None:
            message = f"Invalid rev id: {target.revision or 'main'}"
            return replace(routed, refusal=_refuse(404, "RevisionNotFound", message))
        routed = replace(routed, commit=commit)
        if target.verb != "resolve":
            return routed
        file = commit.files.get(target.path or "")
        if file is None:
            missing = _refuse(404, "EntryNotFound", "Entry not found").header("X-Repo-Commit", commit.id)
            return replace(routed, refusal=missing)
        return replace(routed, file=file)

    # answers

    def _answer(self, routed: Routed, faults: Sequence[Fault]) -> Response:
        target, request = routed.target, routed.request
        if request.method not in _METHODS.get(target.verb, {"GET", "HEAD"}):
            return respond(405, b"Method Not Allowed")
        query = parse_qs(request.query)
        if routed.file is not None:
            return self._resolve(routed, faults)
        match target.verb:
            case "info" if routed.repo is not None and routed.commit is not None:
                only = [item for value in query.get("expand", []) for item in value.split(",")]
                info = api.info_json(routed.repo, routed.commit, blobs=_flag(query, "blobs"), only=only)
                return _unless_known(info, request)
            case "tree" if routed.commit is not None and self.settings.tree:
                return self._tree(routed.commit, target, request, query)
            case "paths-info" if routed.commit is not None and self.settings.paths_info:
                return _paths_info(routed.commit, request)
            case "git" if routed.repo is not None:
                return self.git.answer(routed.repo, target.path or "", request)
            case "lfs" if routed.repo is not None:
                return self._batch(routed, routed.repo)
            case "refs" if routed.repo is not None:
                pull_requests = _flag(query, "include_prs")
                return api.json_response(api.refs_json(routed.repo, pull_requests=pull_requests))
            case "list":
                return self._list(target, request, query)
            case "whoami":
                return self._whoami(request)
            case _:
                return _refuse(404, None, "Sorry, we can't find the page you are looking for.")

    def _tree(self, commit: Commit, target: Target, request: Request, query: dict[str, list[str]]) -> Response:
        entries = commit.entries(target.path or "", recursive=_flag(query, "recursive"))
        if entries is None:
            message = f"{target.path} does not exist on {target.revision}"
            return _refuse(404, "EntryNotFound", message)
        expand, size = _flag(query, "expand"), self.settings.page_size
        shown, link = page(entries, request, query, self.endpoints, default=min(100, size) if expand else size)
        response = api.json_response([api.entry_json(entry, commit, expand=expand) for entry in shown])
        return response.header("Link", link) if link else response

    def _list(self, target: Target, request: Request, query: dict[str, list[str]]) -> Response:
        authors = set(query.get("author", []))
        repos = [
            repo
            for repo in self.world.repos(target.kind)
            if (not authors or repo.repo_id.split("/")[0] in authors)
            and (not repo.private or request.token in repo.tokens)
        ]
        shown, link = page(repos, request, query, self.endpoints, default=self.settings.page_size)
        response = api.json_response([api.listing_json(repo, full=_flag(query, "full")) for repo in shown])
        return response.header("Link", link) if link else response

    def _whoami(self, request: Request) -> Response:
        user = self.world.user(request.token) if request.token is not None else None
        if user is None:
            return _refuse(401, None, "Invalid username or password.")
        token = {"displayName": "mock", "role": "read"}
        return api.json_response({"type": "user", "id": user, "name": user, "orgs": [], "auth": {"accessToken": token}})

    # files

    def _batch(self, routed: Routed, repo: Repo) -> Response:
        def sign(file: RepoFile, commit: Commit) -> lfs.Action:
            href = self._sign(routed, file, commit)
            expires = self._clock() + self.settings.ttl_s
            if not self.settings.lfs_header:
                return lfs.Action(href=href, expires=expires, header={})
            bare, _, query = href.partition("?")
            return lfs.Action(href=bare, expires=expires, header={"Authorization": f"{_REMOTE_AUTH}{query}"})

        errors, now = self.settings.lfs_errors, self._clock()
        return lfs.batch(routed.request, lfs_files(repo), sign=sign, errors=errors, now=now)

    def _redirects(self, routed: Routed) -> bool:
        """Tell whether a request for a file is sent on to the CDN."""
        origin, file = routed.request.origin, routed.file
        return origin == "hub" and self.settings.cdn and file is not None and file.lfs

    def _resolve(self, routed: Routed, faults: Sequence[Fault]) -> Response:
        request, file, commit = routed.request, routed.file, routed.commit
        assert file is not None
        assert commit is not None
        if request.origin == "cdn" or routed.target.verb == "cdn":
            limit = self.settings.max_unranged
            if request.method == "GET" and request.headers.get("range") is None and limit and file.size > limit:
                return respond(400, b"Range required")
            return files.serve(request, file, commit, faults, etag=files.opaque_etag(file))
        about = Headers((("X-Repo-Commit", commit.id), ("Accept-Ranges", "bytes")))
        if file.lfs:
            about = about.with_("X-Linked-Etag", f'"{file.etag()}"').with_("X-Linked-Size", str(file.size))
        if not self._redirects(routed):
            return files.serve(request, file, commit, faults, etag=f'"{file.etag()}"', about=about)
        location = self._sign(routed, file, commit)
        response = respond(302, f"Found. Redirecting to {location}".encode(), location=location)
        for name, value in about.items:
            response = response.header(name, value)
        return response

    def _sign(self, routed: Routed, file: RepoFile, commit: Commit) -> str:
        assert routed.repo is not None
        path = blob_path(routed.repo.kind, routed.repo.repo_id, file.content.sha256(), file.path)
        self._blobs[path] = (file, commit)
        expires = f"{self._clock() + self.settings.ttl_s:.3f}"
        signature = self._signature(path, expires)
        return f"{self.endpoints['cdn']}{path}?Expires={expires}&Signature={signature}&Key-Pair-Id=MOCK"

    def _signed(self, request: Request) -> bool:
        header = request.headers.get("authorization") or ""
        query = parse_qs(header.removeprefix(_REMOTE_AUTH) if header.startswith(_REMOTE_AUTH) else request.query)
        expires, signature = (query.get(name, [""])[0] for name in ("Expires", "Signature"))
        if not hmac.compare_digest(self._signature(request.path, expires).encode(), signature.encode()):
            return False
        return self._clock() < float(expires)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path}\0{expires}".encode(), hashlib.sha256).hexdigest()


def _exchange(request: Request, target: Target, *, size: int | None) -> Exchange:
    return Exchange(
        origin=request.origin,
        route=target.route if request.origin != "other" else "other",
        method=request.method,
        path=unquote(request.path),
        file=target.path,
        repo=target.repo_id,
        range=asked_range(request.headers.get("range"), size),
        token=request.token,
        serves_bytes=False,
    )


_REMOTE_AUTH = "RemoteAuth "  # as GitHub calls its own
_METHODS: Mapping[str, set[str]] = {"paths-info": {"POST"}, "lfs": {"POST"}, "git": {"GET", "POST"}}


def _challenged(target: Target, refusal: Response) -> Response:
    """Have a 401 ask for a password where git is the one that hears it: it sends none before."""
    if target.verb not in ("git", "lfs") or refusal.status != 401:
        return refusal
    name = "WWW-Authenticate" if target.verb == "git" else "LFS-Authenticate"
    return refusal.header(name, 'Basic realm="mock"')


def _unless_known(value: api.Json, request: Request) -> Response:
    """Return the answer with an ETag, or 304 where the client has it."""
    etag = f'W/"{hashlib.sha256(json.dumps(value).encode()).hexdigest()}"'
    known = request.headers.get("if-none-match") == etag
    return (respond(304) if known else api.json_response(value)).header("ETag", etag)


def _refuse(status: int, error_code: str | None, message: str) -> Response:
    response = respond(
        status, json.dumps({"error": message}).encode(), content_type="application/json", x_error_message=message
    )
    return response if error_code is None else response.header("X-Error-Code", error_code)


def _flag(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, ["false"])[-1].lower() in {"true", "1", "yes"}


def _paths_info(commit: Commit, request: Request) -> Response:
    if (request.headers.get("content-type") or "").startswith("application/json"):
        form = json.loads(request.body or b"{}")
        wanted = form.get("paths", [])
        paths, expand = [wanted] if isinstance(wanted, str) else list(wanted), bool(form.get("expand"))
    else:
        fields = parse_qs(request.body.decode())
        paths, expand = fields.get("paths", []), _flag(fields, "expand")
    found = []
    for path in paths:
        entry = commit.files.get(path) or commit.folder(path)
        if entry is not None:
            found.append(api.entry_json(entry, commit, expand=expand))
    return api.json_response(found)
