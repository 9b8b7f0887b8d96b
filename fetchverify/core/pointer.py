"""LFS pointers: what git holds in place of a large file; finding them is left to `store.clone`.

Source: git-lfs `docs/spec.md`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath

# A pointer is shorter than this, so that nobody has to read large files to find out (git-lfs `blobSizeCutoff`).
LONGEST_POINTER = 1024

_VERSIONS = frozenset(
    {
        b"https://git-lfs.github.com/spec/v1",
        # Before the first release; git-lfs still reads them (`lfs/pointer.go::v1Aliases`).
        b"http://git-media.io/v/2",
        b"https://hawser.github.com/spec/v1",
    }
)
_OID = re.compile(rb"sha256:([0-9a-f]{64})")
_SIZE = re.compile(rb"[0-9]{1,19}")
_KEY = re.compile(rb"[a-z0-9.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What a pointer promises.

    Attributes:
        sha256: of the content.
        size: its length in bytes.
        extended: other programs change the content on its way to the work tree (`lfs.extension.*`).
    """

    sha256: str
    size: int
    extended: bool = False

    @property
    def digest(self) -> Digest:
        """The content's digest."""
        return Digest(algo="sha256", hex=self.sha256)

    def file(self, path: RepoPath, blob_id: str) -> RemoteFile:
        """Return the content as the engine fetches and proves it."""
        return RemoteFile(path=path, size=self.size, digest=self.digest, blob_id=blob_id)


def parse_pointer(data: bytes) -> Pointer | None:
    """Return what a pointer says, absurd sizes among it; None where the bytes are none."""
    if len(data) >= LONGEST_POINTER or not data.startswith(b"version "):
        return None
    fields: dict[bytes, bytes] = {}
    for line in data.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n"):
        key, space, value = line.partition(b" ")
        if not space or not _KEY.fullmatch(key) or key in fields:
            return None
        fields[key] = value
    oid, size = _OID.fullmatch(fields.get(b"oid", b"")), _SIZE.fullmatch(fields.get(b"size", b""))
    if fields[b"version"] not in _VERSIONS or oid is None or size is None:
        return None
    unknown = [key for key in fields if key not in (b"version", b"oid", b"size")]
    if any(not key.startswith(b"ext-") for key in unknown):
        return None
    return Pointer(sha256=oid[1].decode(), size=int(size[0]), extended=bool(unknown))


def pointer_text(sha256: str, size: int) -> bytes:
    """Return the pointer that git-lfs writes for a content; it writes them in one way only."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def pointer_blob_id(sha256: str, size: int) -> str:
    """Return the git object id (sha1) of that pointer."""
    text = pointer_text(sha256, size)
    return hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
