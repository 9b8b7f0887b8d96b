"""What an answer to a request for bytes must be, and the failure that it is otherwise; `transport` asks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.core.retry import Failure, Reason
from fetchverify.net import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SHA1 = re.compile(r"[0-9a-f]{40}\Z")


class TransferError(Exception):
    """One request failed; `failure` says how, for `core.retry` to judge. Never leaves `engine`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass(slots=True, kw_only=True)
class Source:
    """Where the bytes of one file can be asked for.

    Attributes:
        url: final address; may be signed, so it never reaches a message.
        from_hub: the address is the endpoint's own: its ETag is the file's identity, and it may see the token.
        etag: the strong ETag of the first range that came from here; every later range must carry the same.
        headers: what this address wants to see besides; it alone.
    """

    url: str
    from_hub: bool
    etag: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def expect_success(response: wire.Response, at: Source, good: tuple[int, ...]) -> None:
    """Raise what a status means that is not one of the good ones."""
    if response.status_code < 300 and response.status_code not in good:
        raise TransferError(Failure(reason=Reason.PROTOCOL, status=response.status_code, detail="unexpected status"))
    if response.status_code >= 400:
        raise TransferError(wire.failure_from_status(response, signed=not at.from_hub))


def check_same_etag(response: wire.Response, source: Source | None) -> None:
    """Remember the first strong ETag of a source; a later one that differs ends this response."""
    etag = response.headers.get("etag", "")
    if source is None or not etag.startswith('"'):
        return
    if source.etag is None:
        source.etag = etag
    elif source.etag != etag:
        raise TransferError(Failure(reason=Reason.REMOTE_CHANGED, detail="the file's ETag changed between two ranges"))


def check_identity(response: wire.Response, manifest: Manifest, file: RemoteFile) -> None:
    """Hold what the Hub says in its headers against what its tree said.

    Mirrors drop these headers, so an absent one says nothing; a present one that differs ends the file.
    Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
    """
    told: list[str] = []
    commit = response.headers.get("x-repo-commit")
    if commit is not None and commit != manifest.commit:
        told.append(f"commit `{commit[:40]}`, not `{manifest.commit}`")
    linked = response.headers.get("x-linked-etag")
    etag = linked or (response.headers.get("etag") if response.status_code < 300 else None)
    if etag is not None:
        plain = etag.removeprefix("W/").strip('"')
        known = _SHA256 if file.digest.algo == "sha256" else _SHA1
        # A sha1 where the tree promised sha256 is the pointer's git id or an opaque tag: no contradiction.
        if known.match(plain) and plain != file.digest.hex:
            told.append(f"{file.digest.algo} `{plain}`, not `{file.digest.hex}`")
    size = response.headers.get("x-linked-size")
    if size is not None and size != str(file.size):
        told.append(f"{size[:20]} bytes, not {file.size}")
    if told:
        detail = "the download's headers contradict the tree: " + "; ".join(told)
        raise TransferError(Failure(reason=Reason.CONTRADICTED, detail=detail))


def checked_length(response: wire.Response, file: RemoteFile, span: Block | None) -> int:
    """Return how many bytes the body must hold, or raise what is wrong with the head."""
    headers = response.headers
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise TransferError(Failure(reason=Reason.ENCODED, detail=f"the body is `{coding}`, identity was asked for"))
    length = headers.get("content-length")
    wanted = file.size if span is None else len(span)
    if response.status_code == 200:
        if headers.get("content-type", "").startswith("text/html") and length != str(file.size):
            detail = "the server sent an HTML page instead of the file"
            raise TransferError(Failure(reason=Reason.NOT_THE_FILE, detail=detail))
        if length is not None and length != str(file.size):
            detail = f"the server announces {length} bytes, the repo promises {file.size}"
            raise TransferError(Failure(reason=Reason.WRONG_LENGTH, detail=detail))
        if span is not None and len(span) != file.size:
            raise TransferError(Failure(reason=Reason.RANGE_IGNORED, detail="200 to a range request"))
        return wanted
    assert span is not None
    match = _CONTENT_RANGE.match(headers.get("content-range", ""))
    if (
        match is None
        or (int(match[1]), int(match[2]) + 1) != (span.start, span.stop)
        or match[3] not in ("*", str(file.size))
    ):
        detail = (
            f"asked for bytes {span.start}-{span.stop - 1}/{file.size}, got `{headers.get('content-range', '')[:80]}`"
        )
        raise TransferError(Failure(reason=Reason.WRONG_RANGE, detail=detail))
    if length is not None and length != str(wanted):
        detail = f"the server announces {length} bytes for a range of {wanted}"
        raise TransferError(Failure(reason=Reason.WRONG_LENGTH, detail=detail))
    return wanted
