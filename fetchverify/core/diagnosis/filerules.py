"""Is a file what its name promises? Decided from its first bytes and its header's flaws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Content, Entry, FileSeen, Sniffed, Trouble
from fetchverify.core.diagnosis.findings import Finding, Origin

_C = Content
_TORCH = frozenset({_C.ZIP, _C.PICKLE, _C.TAR})
_PACKED = frozenset({_C.GZIP, _C.ZSTD, _C.BZIP2, _C.XZ, _C.SEVEN_ZIP})
# What each ending promises.
PROMISED: dict[str, frozenset[Content]] = {
    ".safetensors": frozenset({_C.SAFETENSORS}),
    ".gguf": frozenset({_C.GGUF}),
    ".bin": _TORCH,
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".ckpt": _TORCH,
    ".distcp": frozenset({_C.ZIP, _C.PICKLE}),
    ".metadata": frozenset({_C.PICKLE}),
    ".json": frozenset({_C.JSON}),
    ".model": frozenset(_C) - _PACKED - {_C.HTML, _C.XML, _C.MESSAGE, _C.JSON, _C.ZEROS, _C.EMPTY},
}


# What there is nothing to read of.
UNREAD = frozenset({Trouble.DANGLING, Trouble.UNREADABLE, Trouble.FOLDER_OUTSIDE})


def promised_by(path: str) -> frozenset[Content] | None:
    """Return what the name promises; None where it may be anything."""
    name = path.rpartition("/")[2]
    if name == ".metadata":
        return PROMISED[".metadata"]
    return PROMISED.get(name[name.rfind(".") :].lower()) if "." in name else None


def wrong_content(path: str, sniffed: Sniffed) -> tuple[str, str] | None:
    """Return code and what was seen, where the first bytes alone show that the name lies."""
    content, promised = sniffed.content, promised_by(path)
    if content in {_C.LFS_POINTER, _C.XET_POINTER}:
        pointer = sniffed.pointer
        size = f" to {pointer.size:,} bytes" if pointer and pointer.size is not None else ""
        digest = f" with sha256 `{pointer.sha256[:12]}…`" if pointer and pointer.sha256 else ""
        return "FV101", f"{content.value}{size}{digest}"
    if promised is None or content in promised:
        return None
    said = f", which says: {sniffed.words}" if sniffed.words else ""
    if content is _C.HTML:
        return "FV102", f"{content.value}{said}"
    if content in {_C.XML, _C.MESSAGE} or (content is _C.JSON and ".json" not in path):
        return "FV103", f"{content.value}{said}"
    if content in _PACKED:
        return "FV104", content.value
    if content is _C.EMPTY:
        return "FV106", "the file is empty"
    if content is _C.ZEROS:
        return "FV110", "its first bytes are zeros"
    if content is _C.BOM_TEXT and ".json" not in path:
        return "FV111", f"{content.value}: something treated the file as text"
    if content in {_C.UNKNOWN, _C.TEXT, _C.BOM_TEXT} and promised != PROMISED[".distcp"]:
        return None  # the reader of the promised format says more
    return "FV105", f"{content.value}"


def judge_file(seen: FileSeen, origin: Origin) -> Iterator[Finding]:
    """Yield what is wrong with one file."""
    path = seen.entry.path
    yield from judge_entry(seen.entry, origin)
    if seen.entry.trouble in UNREAD:
        return
    wrong = wrong_content(path, seen.sniffed)
    if wrong is not None:
        yield finding(wrong[0], path, wrong[1], origin=origin)
        return
    if is_error_message(seen.value) and path.endswith(".json"):
        yield finding("FV103", path, f"a server's message, which says: {_message(seen.value)}", origin=origin)
        return
    for flaw in seen.flaws:
        yield finding(flaw.code, path, flaw.seen, origin=origin)


def judge_entry(entry: Entry, origin: Origin) -> Iterator[Finding]:
    """Yield what is wrong with a name before anything is read."""
    match entry.trouble:
        case Trouble.DANGLING:
            yield finding("FV120", entry.path, f"it links to `{entry.detail}`, where nothing is", origin=origin)
        case Trouble.UNREADABLE:
            yield finding("FV119", entry.path, entry.detail, origin=origin)
        case Trouble.OUTSIDE:
            yield finding("FV504", entry.path, f"it links to `{entry.detail}`", origin=origin)
        case Trouble.FOLDER_OUTSIDE:
            seen = f"it links to the folder `{entry.detail}`, which was not looked at"
            yield finding("FV504", entry.path, seen, origin=origin)
        case Trouble.LEFT_OUT | None:
            pass


def is_error_message(value: Any) -> bool:
    """Tell a server's error in JSON from a config: few keys, one of them `error`."""
    return isinstance(value, dict) and "error" in value and len(value) <= 4 and isinstance(value["error"], (str, dict))


def _message(value: dict[str, Any]) -> str:
    return str(value["error"])[:120]
