"""Which file paths of a repo are safe to write, on every platform; a path that passed is a `RepoPath`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from fetchverify.core.manifest import RemoteFile, RepoPath
from fetchverify.errors import UntrustedMetadataError

_MAX_PATH = 4096  # PATH_MAX on Linux, in bytes
_MAX_NAME = 255  # NAME_MAX of ext4, XFS, APFS, NTFS
_MAX_SIZE = 1 << 50  # 1 PiB: beyond every file system's largest file that a model could want
# Microsoft, "Naming Files, Paths, and Namespaces": reserved with any extension.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\Z", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|\ud800-\udfff]')
# Ours, the hub client's and git's own folders: a repo's file there could pose as state.
_OURS = ((".fetchverify",), (".cache", "huggingface"), (".git",))


def check_path(raw: Any) -> RepoPath:
    """Return the path, if it names a file below its root on every platform.

    Raises:
        UntrustedMetadataError: it is no text, leaves the root, or some file system would take it for another name.
    """
    why = _trouble(raw)
    if why is not None:
        shown = ascii(raw)
        raise UntrustedMetadataError(
            f"the repo names a file {shown[:120] + ('…' if len(shown) > 120 else '')}: {why}",
            hint="nothing was written; tell the repo's owner, or leave the file out of the repo",
        )
    return RepoPath(raw)


def _trouble(raw: Any) -> str | None:
    if not isinstance(raw, str):
        return "that is no text"
    if not raw:
        return "that is empty"
    if bad := _FORBIDDEN.search(raw):
        return f"{ascii(bad[0])} may not stand in a path"
    if raw.startswith("/"):
        return "that is an absolute path"
    if len(raw.encode()) > _MAX_PATH:
        return f"that is longer than {_MAX_PATH} bytes"
    parts = raw.split("/")
    for part in parts:
        if part in ("", ".", ".."):
            return f"`{part}` may not be a part of a path"
        if part[-1] in ". ":
            return "a name may not end in a dot or a space"
        if len(part.encode()) > _MAX_NAME:
            return f"a name is longer than {_MAX_NAME} bytes"
        if _RESERVED.match(part.split(".")[0].rstrip(" ")):
            return "Windows reserves that name"
    folded = tuple(part.casefold() for part in parts)
    if any(folded[: len(own)] == own for own in _OURS):
        return "that folder is not the repo's to write"
    return None


def check_size(path: str, size: Any) -> int:
    """Return the size in bytes, if a file can have it.

    Raises:
        UntrustedMetadataError: it is no whole number, negative or absurd.
    """
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise UntrustedMetadataError(f"`{path}` has the size {ascii(size)[:40]}, which no file can have")
    return size


def check_files(files: Iterable[RemoteFile]) -> None:
    """Check that the files can lie in one folder together.

    Raises:
        UntrustedMetadataError: a path stands twice, or a file is a folder of another one as well.
    """
    paths: set[str] = set()
    folders: set[str] = set()
    for file in files:
        if file.path in paths:
            raise UntrustedMetadataError(f"the repo names `{file.path}` twice")
        paths.add(file.path)
        folder = file.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    if both := sorted(paths & folders):
        raise UntrustedMetadataError(f"the repo names `{both[0]}` as a file and as a folder")


def case_collisions(files: Iterable[RemoteFile]) -> list[tuple[str, str]]:
    """Return pairs of paths (of files or folders) that a case-insensitive disk takes for the same name."""
    seen: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for file in files:
        path = ""
        for part in file.path.split("/"):
            path = f"{path}/{part}" if path else part
            key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
            first = seen.setdefault(key, path)
            if first != path and (first, path) not in found:
                found.append((first, path))
    return found
