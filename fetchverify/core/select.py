"""Which of a repo's files the user wants: names, the hub's globs, one of two layouts."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fetchverify.core.manifest import RemoteFile
from fetchverify.errors import AbsentError, UsageError

WeightLayout: TypeAlias = Literal["hf", "original"]

_GLOB = set("*?[")
_TOP_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
# Meta's repos keep the release's own files in `original/`, gpt-oss its reference weights in `original/` and
# `metal/`, Mistral's lay `consolidated*` and `params.json` beside the shards.
_ORIGINAL = ("original/*", "metal/*", "consolidated*", "params.json", "tokenizer.model.v*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen files in the manifest's order, and a sentence for the user where there was a choice to make."""

    files: tuple[RemoteFile, ...]
    note: str | None = None


def select(
    files: Sequence[RemoteFile],
    *,
    names: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layout: WeightLayout | None = None,
) -> Selection:
    """Return the files that the user wants.

    Args:
        files: the whole manifest.
        names: exact paths, folders (`sub/`) or globs; each must match something.
        include: the hub's glob rules; where given, only what matches.
        exclude: what matches is left out.
        layout: take the weights in one of two formats only.

    Raises:
        AbsentError: a name is not in the repo; the message names what comes close.
        UsageError: the choice leaves nothing, or the repo has no second layout.
    """
    chosen = list(files)
    if names:
        wanted = set[str]()
        for name in names:
            wanted |= _named(name, files)
        chosen = [file for file in chosen if file.path in wanted]
    chosen = [
        file
        for file in chosen
        if (not include or matches(file.path, include)) and not (exclude and matches(file.path, exclude))
    ]
    note = None
    original = [file for file in chosen if matches(file.path, _ORIGINAL)]
    if layout is not None:
        if not original:
            raise UsageError(f"`--layout {layout}`: the repo holds its weights in one layout only")
        beside = {file.path for file in original}
        if layout == "hf":
            chosen = [file for file in chosen if file.path not in beside]
        else:
            chosen = [f for f in chosen if f.path in beside or not matches(f.path, _TOP_WEIGHTS)]
    elif not names and not include and _has_both(chosen, original):
        note = _what_the_other_costs(chosen, original)
    if not chosen and files:
        raise UsageError("the patterns leave no file", hint="see the repo's files with `--dry-run` and no patterns")
    return Selection(files=tuple(chosen), note=note)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Return whether a path matches one of the hub's glob patterns: `*` crosses `/`, `sub/` means all below it.

    Source: huggingface_hub 2.4.0 `utils/_paths.py::filter_repo_objects`.
    """
    return any(fnmatch.fnmatch(path, pattern + "*" if pattern.endswith("/") else pattern) for pattern in patterns)


def _named(name: str, files: Sequence[RemoteFile]) -> set[str]:
    if name.endswith("/") or (_GLOB & set(name) and all(file.path != name for file in files)):
        found = {file.path for file in files if matches(file.path, [name])}
    else:
        found = {file.path for file in files if file.path == name}
    if not found:
        close = difflib.get_close_matches(name, [file.path for file in files], n=3, cutoff=0.5)
        below = any(file.path.startswith(name.rstrip("/") + "/") for file in files)
        hint = f"did you mean `{name}/`, the folder?" if below else None
        if close:
            hint = "did you mean " + ", ".join(f"`{path}`" for path in close) + "?"
        raise AbsentError(f"the repo has no file `{name}`", hint=hint)
    return found


def _has_both(chosen: Sequence[RemoteFile], original: Sequence[RemoteFile]) -> bool:
    heavy = any(file.is_lfs for file in original)
    return heavy and any(matches(file.path, _TOP_WEIGHTS) and not matches(file.path, _ORIGINAL) for file in chosen)


def _what_the_other_costs(chosen: Sequence[RemoteFile], original: Sequence[RemoteFile]) -> str:
    beside = {file.path for file in original}
    weights = sum(f.size for f in chosen if matches(f.path, _TOP_WEIGHTS) and f.path not in beside)
    release = sum(file.size for file in original)
    return (
        f"the repo holds its weights twice: {weights / 1e9:.1f} GB in the Hugging Face layout, {release / 1e9:.1f} GB "
        f"in the original one; `--layout hf` or `--layout original` fetches one of them"
    )
