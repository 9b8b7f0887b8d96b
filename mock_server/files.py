"""File bytes as a response: ranges, If-Range and validators; who may have them is left to `app`."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from mock_server.faults import Fault
from mock_server.inject import Resource, on_resource
from mock_server.messages import ByteRange, Headers, Request, Response, Unsatisfiable, parse_range, respond
from mock_server.world import Commit, RepoFile


def serve(
    request: Request,
    file: RepoFile,
    commit: Commit,
    faults: Sequence[Fault],
    *,
    etag: str,
    about: Headers | None = None,
) -> Response:
    """Return a file, or the range of it that was asked for; `about` fields go with it.

    Source: RFC 9110 §13.1.5 (If-Range holds only for a strong ETag that is equal), §14.2, §15.3.7, §15.5.17.
    """
    siblings = commit.files
    resource = on_resource(
        Resource(content=file.content, etag=etag),
        faults,
        lambda path: siblings[path].content if path in siblings else None,
    )
    content, size = resource.content, resource.content.size
    wanted = request.headers.get("range")
    condition = request.headers.get("if-range")
    if condition is not None and (condition != resource.etag or condition.startswith("W/")):
        wanted = None
    try:
        span = parse_range(wanted, size)
    except Unsatisfiable:
        refusal = respond(416, b"Requested Range Not Satisfiable", content_range=f"bytes */{size}")
        return _with(refusal, about)
    shown = span or ByteRange(start=0, stop=size)
    fields = [
        ("Content-Type", "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"),
        ("Content-Length", str(shown.stop - shown.start)),
        ("Accept-Ranges", "bytes"),
        ("ETag", resource.etag),
        ("Content-Disposition", f"inline; filename*=UTF-8''{quote(file.path.rsplit('/', 1)[-1])}"),
    ]
    if span is not None:
        fields.append(("Content-Range", f"bytes {span.start}-{span.stop - 1}/{size}"))
    response = Response(
        status=200 if span is None else 206,
        headers=Headers(tuple(fields)),
        content=content,
        start=shown.start,
        stop=shown.stop,
    )
    return _with(response, about)


def opaque_etag(file: RepoFile) -> str:
    """Return the ETag of an object store for a file uploaded in parts: equal bytes, equal ETag, but no digest."""
    digest = hashlib.md5(file.content.sha256().encode(), usedforsecurity=False).hexdigest()
    return f'"{digest}-{file.size // (64 << 20) + 1}"'


def _with(response: Response, about: Headers | None) -> Response:
    for name, value in about.items if about is not None else ():
        response = replace(response, headers=response.headers.with_(name, value))
    return response
