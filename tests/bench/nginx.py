"""An nginx configuration that answers as a Hub and its CDN: static JSON, redirects with the Hub's headers, sendfile."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mock_server.api import entry_json, info_json
from tests.bench.cases import Case, Shelf

HUB_HOST = "127.0.0.1"
CDN_HOST = "127.0.0.2"
"""Another host, not just another port: huggingface_hub takes a redirect to its own host for one within the Hub."""
PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One pair of ports on which the same files are served.

    Attributes:
        name: for people and file names.
        hub: the Hub's port.
        cdn: the CDN's port.
        public_hub: the port by which clients reach the Hub: the line's, where there is one before it.
        public_cdn: likewise, in redirects.
        tls: whether it speaks TLS.
        most_requests: answer 429 above so many at once, on the CDN.
        access_log: note each request.
    """

    name: str
    hub: int
    cdn: int
    public_hub: int
    public_cdn: int
    tls: bool = False
    most_requests: int | None = None
    access_log: bool = False

    @property
    def endpoint(self) -> str:
        """What clients take for the Hub."""
        return f"{'https' if self.tls else 'http'}://{HUB_HOST}:{self.public_hub}"


def write_api(shelf: Shelf, case: Case, folder: Path) -> int:
    """Write what the API says of a repo, as the mock Hub would; return the number of pages its listing has."""
    repo = shelf.world.repo(case.repo_id)
    commit = repo.head()
    place = folder / case.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "info").write_text(json.dumps(info_json(repo, commit, blobs=False)))
    entries = [entry_json(entry, commit, expand=False) for entry in commit.entries(recursive=True) or ()]
    pages = range(0, max(len(entries), 1), PAGE)
    for start in pages:
        name = f"tree{start or ''}"
        (place / name).write_text(json.dumps(entries[start : start + PAGE], separators=(",", ":")))
    return len(pages)


def configuration(*, work: Path, shelf: Shelf, cases: list[Case], faces: list[Face]) -> str:
    """Return the whole configuration; writes the API's answers below `work`."""
    api = work / "api"
    pages = {case.name: write_api(shelf, case, api) for case in cases}
    lines = [
        "daemon off;",
        f"worker_processes {os.cpu_count() or 1};",
        *(["user root;"] if os.geteuid() == 0 else []),
        f"pid {work}/nginx.pid;",
        f"error_log {work}/nginx.log warn;",
        "events { worker_connections 2048; }",
        "http {",
        *(f"{kind}_temp_path {work}/tmp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        "default_type application/octet-stream;",
        "access_log off;",
        "log_format spans '$msec $request_time $request_method $uri';",
        "sendfile on; tcp_nopush on; tcp_nodelay on;",
        "keepalive_timeout 60; keepalive_requests 100000000;",
        "open_file_cache max=2048 inactive=300s; open_file_cache_valid 300s;",
        "map_hash_max_size 262144; map_hash_bucket_size 256;",
        "limit_conn_status 429; limit_conn_log_level info;",
        *_maps(shelf, cases),
        *_links(shelf, cases, pages),
    ]
    for face in faces:
        lines += _hub(face, shelf, cases, pages, api, work) + _cdn(face, shelf, work)
    return "\n".join([*lines, "}", ""])


def _maps(shelf: Shelf, cases: list[Case]) -> list[str]:
    """Return what is promised of each file, by repo and path."""
    etags, sizes = [], []
    for case in cases:
        commit = shelf.world.repo(case.repo_id).head()
        if len(commit.files) > PAGE:  # nobody needs 100,000 of these: no digest is taken from a header
            continue
        for path, file in commit.files.items():
            etags.append(f"{case.name}/{path} '\"{file.etag()}\"';")
            sizes.append(f"{case.name}/{path} {file.size};")
    return ["map $name/$path $promised_etag {", *etags, "}", "map $name/$path $promised_size {", *sizes, "}"]


def _links(shelf: Shelf, cases: list[Case], pages: dict[str, int]) -> list[str]:
    """Return how pages of a listing name the next one; an empty header is not sent."""
    following = [
        f'"/api/models/{case.repo_id}/tree/{revision} {start - PAGE or ""}" {start};'
        for case in cases
        for revision in ("main", shelf.commit(case))
        for start in range(PAGE, pages[case.name] * PAGE, PAGE)
    ]
    link = "'<$scheme://$http_host$uri?recursive=true&cursor=$following>; rel=\"next\"'"
    return [
        *['map "$uri $arg_cursor" $following {', 'default "";', *following, "}"],
        *["map $following $next_page {", f"default {link};", '"" "";', "}"],
    ]


def _listen(host: str, port: int, face: Face, work: Path) -> list[str]:
    lines = [f"listen {host}:{port} backlog=1024{' ssl' if face.tls else ''};"]
    if face.tls:
        lines += [f"ssl_certificate {work}/leaf.pem;", f"ssl_certificate_key {work}/leaf.key;"]
        lines += ["ssl_session_cache shared:bench:4m;", "ssl_protocols TLSv1.2 TLSv1.3;"]
    return lines


def _hub(face: Face, shelf: Shelf, cases: list[Case], pages: dict[str, int], api: Path, work: Path) -> list[str]:
    lines = ["server {", *_listen(HUB_HOST, face.hub, face, work)]
    if face.access_log:
        lines.append(f"access_log {work}/{face.name}.log spans buffer=256k flush=1s;")
    for case in cases:
        commit = shelf.commit(case)
        about = f"add_header X-Repo-Commit {commit};"
        base = f"/api/models/{case.repo_id}"
        for address in (base, f"{base}/revision/main", f"{base}/revision/{commit}"):
            lines += [f"location = {address} {{", "default_type application/json;", about]
            lines += [f"alias {api}/{case.name}/info;", "}"]
        for revision in ("main", commit):
            address = f"{base}/tree/{revision}"
            lines += [f"location = {address} {{", "default_type application/json;", about]
            lines += ["add_header Link $next_page;", f"alias {api}/{case.name}/tree$arg_cursor;", "}"]
        where = rf"location ~ ^/{case.repo_id.partition('/')[0]}/(?<name>{case.name})/resolve/[^/]+/(?<path>.+)$ {{"
        lines += [where, about, "add_header Accept-Ranges bytes;"]
        if case.lfs:
            lines += ["add_header X-Linked-Etag $promised_etag;", "add_header X-Linked-Size $promised_size;"]
            scheme = "https" if face.tls else "http"
            lines += [f"return 302 {scheme}://{CDN_HOST}:{face.public_cdn}/$name/$path;", "}"]
        else:
            if pages[case.name] == 1:
                lines += ["etag off;", "add_header ETag $promised_etag;"]
            lines += [f"alias {shelf.root}/$name/$path;", "}"]
    return [*lines, "location / { return 404; }", "}"]


def _cdn(face: Face, shelf: Shelf, work: Path) -> list[str]:
    lines = []
    if face.most_requests is not None:
        lines += [f"limit_conn_zone $server_port zone={face.name}:1m;"]
    lines += ["server {", *_listen(CDN_HOST, face.cdn, face, work), f"root {shelf.root};"]
    if face.most_requests is not None:
        lines += [f"limit_conn {face.name} {face.most_requests};"]
    return [*lines, "}"]
