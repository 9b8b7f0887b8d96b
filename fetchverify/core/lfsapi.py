"""The LFS batch API: what is asked, what the answer means; sending it is left to `net.lfs`.

Source: git-lfs `docs/api/batch.md`, `tq/schemas/http-batch-response-schema.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from fetchverify.core.manifest import RemoteFile
from fetchverify.core.paths import shown
from fetchverify.core.retry import Failure, Reason

# As git-lfs asks; servers refuse more (GitHub: 100, GitLab: 100).
BATCH = 100
MEDIA_TYPE = "application/vnd.git-lfs+json"

_MOST_HEADERS = 32
_LONGEST = 16 << 10
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]*")
# They say how the message is framed and which bytes are asked for: ours to say.
_OURS_TEXT = """
    accept-encoding connection content-length content-type cookie expect host if-range keep-alive proxy-authorization
    proxy-connection range te trailer transfer-encoding upgrade
"""
_OURS = frozenset(_OURS_TEXT.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Where one object can be fetched.

    Attributes:
        href: may be signed; never shown.
        headers: for that address alone; never shown.
        expires_s: Unix time after which it is not accepted, where the server says.
        authenticated: the server says that nothing more is needed.
    """

    href: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_s: float | None = None
    authenticated: bool = False


Told: TypeAlias = Action | Failure


def batch_body(files: Sequence[RemoteFile], ref: str | None = None) -> bytes:
    """Return the request for the download actions of these files.

    Args:
        files: at most `BATCH`.
        ref: full name of the branch that is checked out; some servers decide by it who may read.
    """
    body: dict[str, Any] = {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": file.digest.hex, "size": file.size} for file in files],
        "hash_algo": "sha256",
    }
    if ref is not None:
        body["ref"] = {"name": ref}
    return json.dumps(body).encode()


def read_batch(body: bytes, asked: Sequence[RemoteFile], *, now_s: float) -> dict[str, Told]:
    """Return what a server says of each object that was asked for, by sha256.

    Args:
        body: the answer, from a stranger.
        asked: what was asked for; anything else in the answer is passed over.
        now_s: Unix time.

    Raises:
        ValueError: it is no such answer.
    """
    answer = json.loads(body)
    objects = answer.get("objects") if isinstance(answer, dict) else None
    if not isinstance(objects, list) or answer.get("transfer", "basic") != "basic":
        raise ValueError("the answer is not as the batch API has it")
    sizes = {file.digest.hex: file.size for file in asked}
    told: dict[str, Told] = {}
    for item in objects:
        oid = item.get("oid") if isinstance(item, dict) else None
        if isinstance(oid, str) and oid in sizes:
            told[oid] = _read_object(item, sizes[oid], now_s)
    for oid in sizes:
        told.setdefault(oid, Failure(reason=Reason.ABSENT, detail="the LFS server does not mention it"))
    return told


def _read_object(item: Mapping[str, Any], size: int, now_s: float) -> Told:
    error, actions = item.get("error"), item.get("actions")
    if isinstance(error, dict):
        return _failure(error)
    if item.get("size", size) != size:
        detail = f"the LFS server states {shown(str(item['size']), 30)} bytes, the pointer {size}"
        return Failure(reason=Reason.CONTRADICTED, detail=detail)
    action = actions.get("download") if isinstance(actions, dict) else None
    if not isinstance(action, dict):
        return Failure(reason=Reason.ABSENT, detail="the LFS server does not have it")
    href, headers = action.get("href"), action.get("header", {})
    if not isinstance(href, str) or not _is_address(href):
        return Failure(reason=Reason.BAD_REDIRECT, detail="the LFS server names no address that can be asked")
    if not are_headers(headers):
        return Failure(reason=Reason.BAD_REDIRECT, detail="the LFS server wants headers that must not be sent")
    kept = {name: value for name, value in headers.items() if name.lower() not in _OURS}
    authenticated = item.get("authenticated") is True
    return Action(href=href, headers=kept, expires_s=_expiry(action, now_s), authenticated=authenticated)


def _failure(error: Mapping[str, Any]) -> Failure:
    """Return an object's error. Source: `docs/api/batch.md`, "Successful Responses", "Object errors"."""
    code, message = error.get("code"), error.get("message")
    status = code if isinstance(code, int) and not isinstance(code, bool) and 100 <= code <= 599 else None
    told = f": {shown(message)}" if isinstance(message, str) and message else ""
    if status in (404, 410):
        reason = Reason.ABSENT
    elif status in (401, 403):
        reason = Reason.DENIED
    elif status in (408, 429) or (status is not None and status >= 500):
        reason = Reason.BAD_STATUS
    else:
        reason = Reason.REFUSED
    return Failure(reason=reason, status=status, detail=f"the LFS server refuses it ({status or 'no status'}){told}")


def _is_address(href: str) -> bool:
    if len(href) > _LONGEST or not href.isprintable() or " " in href:
        return False
    try:
        parts = urlsplit(href)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:
        return False


def are_headers(headers: object) -> bool:
    """Return whether a stranger's headers can be sent: few, short, and without a line's end in them."""
    return (
        isinstance(headers, dict)
        and len(headers) <= _MOST_HEADERS
        and all(
            isinstance(name, str)
            and isinstance(value, str)
            and _NAME.fullmatch(name)
            and len(value) <= _LONGEST
            and _VALUE.fullmatch(value)
            for name, value in headers.items()
        )
    )


def _expiry(action: Mapping[str, Any], now_s: float) -> float | None:
    """Return when an action expires; `expires_in` goes first: it does not depend on two clocks that agree."""
    lasts = action.get("expires_in")
    if isinstance(lasts, int | float) and not isinstance(lasts, bool) and lasts:
        return now_s + lasts
    try:
        return datetime.fromisoformat(action["expires_at"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
