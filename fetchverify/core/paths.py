"""Which file names of a server may become paths of ours; what one disk cannot hold is told apart from what none may.

`check_path` and `check_files` refuse what is hostile everywhere: then the whole listing is distrusted. `obstacle` names
what only some target cannot take (Windows, a plain folder with bookkeeping in it): that is one file's trouble. Honest
repos hold names that Windows cannot, such as `con.csv` (a language, ISO 639-3) beside `fra.csv`: such a file is refused
alone, and the rest of its repo is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from fetchverify.core.manifest import RemoteFile, RepoPath
from fetchverify.errors import UntrustedMetadataError

# NAME_MAX of ext4, XFS, Btrfs, APFS and NTFS (there in UTF-16 units, so bytes are the stricter measure).
_MOST_COMPONENT_BYTES = 255
# PATH_MAX of Linux: a longer one cannot be opened, wherever its root lies.
_MOST_PATH_BYTES = 4096
# 1 PiB: two thousand times the Hub's hard limit of 500 GB a file, and sums of millions of them are still exact.
MOST_SIZE = 1 << 50
_MOST_SHOWN = 120

# Cc of Unicode: C0, DEL and C1 (terminals take U+009B for an escape), the line ends U+2028 and U+2029, surrogates
# (no UTF-8), and the backslash, a separator on Windows and to the hub's globs.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")
# Letters, digits and harmless signs of ASCII, no component that begins with a dot.
_PLAIN = re.compile(r"\w[\w .,+=@()\-]*(?:/\w[\w .,+=@()\-]*)*", re.ASCII)
_DRIVE = re.compile(r"[A-Za-z]:")
# Code points that HFS+ ignores in names, so that `.g\u200cit` is `.git` there (CVE-2014-9390; git `utf8.c`).
_IGNORED_BY_HFS = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
_NOT_THE_REPOS = frozenset({".git", ".fetchverify"})
# Reserved with any extension, and with the superscript digits that Windows takes for digits.
# Source: learn.microsoft.com, "Naming Files, Paths, and Namespaces".
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\..*)?", re.IGNORECASE | re.DOTALL
)
# What any path looks like that holds one of those, or a component whose end Windows drops.
_SUSPECT = re.compile(r"(?<![^/])(?:co|prn|aux|nul|lpt)|[. ](?![^/])", re.IGNORECASE)
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]')
# How the names of weights end; others are not worth to be opened.
WEIGHT_ENDINGS = (".safetensors", ".gguf", ".pth", ".bin")


def shown(raw: object, most: int = _MOST_SHOWN) -> str:
    """Return a stranger's text for a message: escaped, on one line, of bounded length, without quotes around it."""
    if not isinstance(raw, str):
        return f"a {type(raw).__name__}"
    escaped = repr(raw[:most])[1:-1]
    return escaped if len(raw) <= most and len(escaped) <= most else f"{escaped[: most - 1]}…"


def check_path(raw: object) -> RepoPath:
    """Return `raw` as a path that stays below any root and names one file there, on every POSIX disk.

    Raises:
        UntrustedMetadataError: it is no such path; the message names it, escaped and cut.
    """
    if not isinstance(raw, str):
        raise UntrustedMetadataError(f"the server names a file by a {type(raw).__name__}, not by text")
    why = _refusal(raw)
    if why is not None:
        raise UntrustedMetadataError(
            f"the server names a file `{shown(raw)}`: {why}",
            hint="nothing was written; neither the repo nor the endpoint should be trusted",
        )
    return RepoPath(raw)


def check_size(path: str, size: object) -> int:
    """Return `size` where a file can have so many bytes.

    Raises:
        UntrustedMetadataError: it is no whole number from 0 to `MOST_SIZE`.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise UntrustedMetadataError(f"the server states no size in bytes for `{shown(path)}`")
    if not 0 <= size <= MOST_SIZE:
        told = size if abs(size) < 1 << 64 else "an absurd number of"
        raise UntrustedMetadataError(f"the server states {told} bytes for `{shown(path)}`")
    return size


def check_files(files: Iterable[RemoteFile]) -> None:
    """Check what concerns several files: no path twice, none a file and a folder.

    Raises:
        UntrustedMetadataError: the listing contradicts itself.
    """
    listed = [file.path for file in files]
    names = set(listed)
    if len(names) != len(listed):
        twice = next(path for path, count in Counter(listed).items() if count > 1)
        raise UntrustedMetadataError(f"the server lists `{shown(twice)}` twice")
    folders = _folders(listed)
    both = min(names & folders, default=None)
    if both is not None:
        raise UntrustedMetadataError(f"the server lists `{shown(both)}` as a file and as a folder")


def case_collisions(files: Iterable[RemoteFile]) -> tuple[tuple[RepoPath, ...], ...]:
    """Return groups of paths that are one path on a disk that ignores case or Unicode form (macOS, Windows).

    A group has at least two members: files, or a file and one file of the folder that it would have to be.
    """
    paths = [file.path for file in files]
    names = {_folded(path) for path in paths}
    if len(names) == len(paths) and names.isdisjoint(_folders(names)):
        return ()  # nearly all repos: 100,000 files are gone through without a group each
    groups: dict[str, list[RepoPath]] = {}
    below: dict[str, RepoPath] = {}
    for path in paths:
        folded = _folded(path)
        groups.setdefault(folded, []).append(path)
        for folder in _parents(folded):
            if folder in below:
                break
            below[folder] = path
    found = []
    for folded, same in groups.items():
        group = [*same, below[folded]] if folded in below else same
        if len(group) > 1:
            found.append(tuple(group))
    return tuple(found)


def obstacle(path: str, *, windows: bool = False, folder: bool = False) -> str | None:
    """Return why a path that passed `check_path` cannot be written to this target, for people; None where it can.

    Names that Windows bends into others (a device, a dropped end) are refused everywhere: a snapshot that a shared
    disk or an archive carries there would be another one.

    Args:
        path: the file.
        windows: the target is a Windows disk.
        folder: the target is a plain folder, which holds the hub client's records beside the files.
    """
    if folder and _folded(path).split("/", 2)[:2] == [".cache", "huggingface"]:
        # Repos hold such files by accident (an uploaded `--local-dir`); here they would speak for other files.
        return "it would lie among the hub client's own records (`.cache/huggingface`)"
    if not _SUSPECT.search(path) and not windows:
        return None  # of 100,000 paths that are fine one look is enough
    for component in path.split("/"):
        if _RESERVED.fullmatch(component):
            return f"`{shown(component)}` is a device on Windows"
        if component[-1] in ". ":
            return f"Windows drops the end of `{shown(component)}`"
        if windows and _NOT_ON_WINDOWS.search(component):
            return f"Windows has no names like `{shown(component)}`"
    return None


def _refusal(path: str) -> str | None:
    """Return what is wrong with a path, for people; None where nothing is."""
    if len(path) <= _MOST_COMPONENT_BYTES and _PLAIN.fullmatch(path):
        return None  # nearly all: one look, of 100,000 of them
    if not path:
        return "it is empty"
    bad = _FORBIDDEN.search(path)
    if bad is not None:
        return "it holds a backslash" if bad[0] == "\\" else f"it holds the character U+{ord(bad[0]):04X}"
    if path[0] == "/" or _DRIVE.match(path):
        return "it is absolute"
    if _longer(path, _MOST_PATH_BYTES):
        return f"it is longer than {_MOST_PATH_BYTES} bytes"
    components = path.split("/")
    for component in components:
        if component in ("", ".", ".."):
            return f"it holds the component `{component}`" if component else "it holds an empty component"
        if _longer(component, _MOST_COMPONENT_BYTES):
            return f"a component is longer than {_MOST_COMPONENT_BYTES} bytes"
    root = components[0]
    if root[0] == "." or not root.isascii():
        root = _folded(root.translate(_IGNORED_BY_HFS))
        if root in _NOT_THE_REPOS:
            return f"`{root}` is not the repo's to write"
    return None


def _longer(text: str, most_bytes: int) -> bool:
    """Return True where UTF-8 takes more bytes; encodes only what could."""
    return len(text) * 4 > most_bytes and len(text.encode()) > most_bytes


def _folded(path: str) -> str:
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _folders(paths: Iterable[str]) -> set[str]:
    """Return all folders above the paths."""
    found = {path.rpartition("/")[0] for path in paths if "/" in path}
    for folder in tuple(found):
        for above in _parents(folder):
            if above in found:
                break  # its own parents are known too, or will be
            found.add(above)
    return found


def _parents(path: str) -> Iterator[str]:
    """Yield the folders above a path, the nearest first."""
    while (cut := path.rfind("/")) >= 0:
        path = path[:cut]
        yield path
