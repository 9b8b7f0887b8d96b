"""The mock Hub's LFS batch API: objects in, download actions or errors a file out; access and signing are `app`'s.

Source: git-lfs `docs/api/batch.md`, `docs/api/basic-transfers.md`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mock_server.messages import Request, Response, respond
from mock_server.world import Commit, RepoFile

MEDIA_TYPE = "application/vnd.git-lfs+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Where an object can be fetched, until when (Unix time), and with which headers."""

    href: str
    expires: float
    header: Mapping[str, str]

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the action as the batch API writes it."""
        at = datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body: dict[str, Any] = {"href": self.href, "expires_at": at, "expires_in": max(1, round(self.expires - now))}
        return body | ({"header": dict(self.header)} if self.header else {})


def batch(
    request: Request,
    objects: Mapping[str, tuple[RepoFile, Commit]],
    *,
    sign: Callable[[RepoFile, Commit], Action],
    errors: Mapping[str, int],
    now: float,
) -> Response:
    """Answer a batch request.

    Args:
        request: its body names objects by `oid` and `size`.
        objects: what the repo has.
        sign: makes an action of a file.
        errors: status by path or oid of the objects that are refused.
        now: Unix time.
    """
    try:
        asked = json.loads(request.body)
        wanted = [(item["oid"], item["size"]) for item in asked["objects"]]
    except (ValueError, KeyError, TypeError):
        return refuse(422, "this is no batch request")
    if asked.get("operation") != "download":
        return refuse(403, "this mock is read-only")
    answers = []
    for oid, size in wanted:
        found = objects.get(oid)
        code = 404 if found is None else errors.get(oid, errors.get(found[0].path, 0))
        if found is not None and not code and found[0].size != size:
            code = 422
        body: dict[str, Any] = {"oid": oid, "size": size}
        if code:
            body["error"] = {"code": code, "message": _MESSAGES.get(code, "Error")}
        else:
            assert found is not None
            body |= {"authenticated": True, "actions": {"download": sign(*found).as_json(now)}}
        answers.append(body)
    text = json.dumps({"transfer": "basic", "objects": answers, "hash_algo": "sha256"})
    return respond(200, text.encode(), content_type=MEDIA_TYPE)


def refuse(status: int, message: str) -> Response:
    """Return the error of a whole batch."""
    made = respond(status, json.dumps({"message": message}).encode(), content_type=MEDIA_TYPE, x_error_message=message)
    return made.header("LFS-Authenticate", 'Basic realm="mock"') if status == 401 else made


_MESSAGES = {
    403: "You may not see this object",
    404: "Object does not exist",
    410: "Object was removed",
    422: "Object has another size",
    429: "Too many requests",
}
