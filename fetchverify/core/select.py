"""Which files of a repo are wanted: names, the hub's globs, and one of two layouts; fetching them is left to others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from fetchverify.core.manifest import RemoteFile
from fetchverify.core.paths import shown
from fetchverify.errors import AbsentError

WeightLayout: TypeAlias = Literal["hf", "original"]

_GLOB = re.compile(r"[*?\[]")
_WEIGHTS = re.compile(r".*\.(?:safetensors|pth|pt|bin)", re.DOTALL)
# Root files of the HF format. Source: transformers 4.57 `utils/__init__.py` (WEIGHTS_NAME, SAFE_WEIGHTS_NAME, ...).
_HF_WEIGHTS = re.compile(r"(?:pytorch_)?model[^/]*\.(?:safetensors|bin)(?:\.index\.json)?")
# Root files of the original format: Llama 1 and 2 (`consolidated.00.pth`), Mistral (`consolidated.safetensors`).
_CONSOLIDATED = re.compile(r"consolidated[^/]*\.(?:pth|pt|safetensors)(?:\.index\.json)?")
_MOST_COMPARED = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoLayouts:
    """The selection holds the weights in two formats; sizes in bytes of what each `--layout` would leave out."""

    hf_leaves_out: int
    original_leaves_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The files to have, in the manifest's order.

    Attributes:
        left_out: how many files of the repo are not wanted.
        left_out_size: their bytes.
        two_layouts: what choosing a layout would save, where nobody chose one.
    """

    files: tuple[RemoteFile, ...]
    left_out: int = 0
    left_out_size: int = 0
    two_layouts: TwoLayouts | None = None

    @property
    def note(self) -> str | None:
        """What people should know before the bytes come, or None."""
        if self.two_layouts is None:
            return None
        hf, original = _human(self.two_layouts.hf_leaves_out), _human(self.two_layouts.original_leaves_out)
        return f"the repo holds its weights twice: `--layout hf` would leave out {hf}, `--layout original` {original}"


def chooser(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Return which paths the hub's globs choose; all where there are none to include."""
    patterns, refused = _directories(include), _directories(exclude)
    return lambda path: (not patterns or _matches(path, patterns)) and not _matches(path, refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layouts:
    """Paths by the format that alone needs them; what both need is in neither set."""

    hf: frozenset[str]
    original: frozenset[str]
    other: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What FILES named: paths, folders (with their slash) and globs."""

    exact: frozenset[str]
    folders: tuple[str, ...]
    globs: tuple[str, ...]


def select(
    files: Sequence[RemoteFile],
    *,
    names: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layout: WeightLayout | None = None,
) -> Selection:
    """Return the files that are wanted.

    A file is wanted if it is named, lies in a named folder, or matches a glob among `names` or `include` (all files
    where both are empty), unless it matches `exclude`. `layout` does not touch files that are named exactly.

    Args:
        files: the manifest's.
        names: paths, folders (a trailing slash says so, and is not needed) or globs; each must match something.
        include: the hub's globs; at least one must match something.
        exclude: the hub's globs.
        layout: of a repo that holds the weights twice, the format to take.

    Raises:
        AbsentError: nothing has this name, or nothing is left.
    """
    wanted = _read_names(files, names)
    patterns = _directories([*wanted.globs, *include])
    refused = _directories(exclude)
    layouts = _layouts(files)
    unwanted = _left_out_by(layout, layouts)
    if not (wanted.exact or wanted.folders or patterns or refused or unwanted):
        return Selection(files=tuple(files), two_layouts=_choice(files, layouts) if layout is None else None)
    everything = not (wanted.exact or wanted.folders or patterns)
    chosen = []
    for file in files:
        named = file.path in wanted.exact
        taken = everything or named or file.path.startswith(wanted.folders) or _matches(file.path, patterns)
        if taken and not _matches(file.path, refused) and (named or file.path not in unwanted):
            chosen.append(file)
    if files and not chosen:
        raise _nothing_left(names, include, exclude, layout)
    kept = sum(file.size for file in chosen)
    return Selection(
        files=tuple(chosen),
        left_out=len(files) - len(chosen),
        left_out_size=sum(file.size for file in files) - kept,
        two_layouts=_choice(chosen, layouts) if layout is None else None,
    )


def matches_globs(path: str, include: Iterable[str] | None, exclude: Iterable[str] | None) -> bool:
    """Return what the hub's client would: without `include` everything is, with an empty one nothing.

    Source: huggingface_hub 1.33.0 and 2.4.0 `utils/_paths.py::filter_repo_objects`.
    """
    if include is not None and not _matches(path, _directories(include)):
        return False
    return exclude is None or not _matches(path, _directories(exclude))


def _normal(text: str) -> str:
    return text.replace("\\", "/")


def _directories(patterns: Iterable[str]) -> list[str]:
    """Return globs as the hub reads them: `dir/` means all below it, backslashes are slashes."""
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in map(_normal, patterns)]


def _matches(path: str, patterns: Iterable[str]) -> bool:
    path = _normal(path)
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _read_names(files: Sequence[RemoteFile], names: Sequence[str]) -> _Names:
    """Tell paths, folders and globs apart; a file that is called like a glob goes first.

    Raises:
        AbsentError: a name matches nothing; close ones are in the message.
    """
    paths = {file.path for file in files} if names else set()
    exact: set[str] = set()
    folders: list[str] = []
    globs: list[str] = []
    for name in names:
        plain = name.removeprefix("./")
        folder = f"{plain.rstrip('/')}/"
        if plain in paths:
            exact.add(plain)
        elif plain.strip("/") and any(path.startswith(folder) for path in paths):
            folders.append(folder)
        elif _GLOB.search(plain) and any(_matches(path, _directories([plain])) for path in paths):
            globs.append(plain)
        else:
            raise _absent(name, paths)
    return _Names(exact=frozenset(exact), folders=tuple(folders), globs=tuple(globs))


def _absent(name: str, paths: Collection[str]) -> AbsentError:
    close = _close(name.strip("/"), paths)
    told = " or ".join(f"`{shown(path)}`" for path in close)
    return AbsentError(
        f"the repo has no file `{shown(name)}`",
        hint=f"did you mean {told}?" if close else "see what it holds with `--dry-run`",
    )


def _close(name: str, paths: Collection[str]) -> list[str]:
    """Return at most three paths that may have been meant: same name elsewhere or in other case, else alike."""
    base = name.rpartition("/")[2].casefold()
    same = sorted(path for path in paths if base and path.rpartition("/")[2].casefold() == base)
    if same:
        return same[:3]
    # Comparing is slow: a slip of the finger must not cost minutes in a repo of a million files.
    some = sorted(paths) if len(paths) <= _MOST_COMPARED else sorted(path for path in paths if "/" not in path)
    return difflib.get_close_matches(name, some[:_MOST_COMPARED], n=3, cutoff=0.6)


def _layouts(files: Iterable[RemoteFile]) -> _Layouts:
    """Tell two formats of the same weights apart; a repo with one format has only `hf` or only `original` paths.

    Three kinds of repos: meta-llama's `original/` (`consolidated.*.pth`, `params.json`, `tokenizer.model`) beside HF
    shards; openai/gpt-oss with `original/` and, for neither, `metal/`; mistralai's `consolidated*.safetensors` and
    `params.json` at the root beside HF shards.
    """
    root: set[str] = set()
    below: dict[str, set[str]] = {"original": set(), "metal": set()}
    for file in files:
        folder, slash, _ = file.path.partition("/")
        if not slash:
            root.add(file.path)
        elif folder in below:
            below[folder].add(file.path)
    hf = {path for path in root if _HF_WEIGHTS.fullmatch(path)}
    consolidated = {path for path in root if _CONSOLIDATED.fullmatch(path)}
    if any(_WEIGHTS.fullmatch(path) for path in below["original"]):
        # The folder is complete by itself: `--layout original` is nothing but `original/**`, as for the hub's globs.
        return _Layouts(
            hf=frozenset((root | below["metal"]) - consolidated if hf else ()),
            original=frozenset(below["original"] | consolidated),
            other=frozenset(below["metal"]),
        )
    params = {"params.json"} & root if consolidated else set()
    return _Layouts(hf=frozenset(hf), original=frozenset(consolidated | params), other=frozenset())


def _left_out_by(layout: WeightLayout | None, layouts: _Layouts) -> frozenset[str]:
    """Return the paths that a chosen layout does not need.

    Raises:
        AbsentError: the repo does not have this layout.
    """
    if layout == "original":
        if not layouts.original:
            raise AbsentError("the repo holds no original layout", hint="leave out `--layout`, or see `--dry-run`")
        return layouts.hf | layouts.other
    if layout == "hf":
        if layouts.original and not layouts.hf:
            raise AbsentError("the repo holds the original layout only", hint="leave out `--layout`")
        return layouts.original | layouts.other
    return frozenset()


def _choice(chosen: Iterable[RemoteFile], layouts: _Layouts) -> TwoLayouts | None:
    """Return what each layout would save of the chosen files; None where there is nothing to choose."""
    if not (layouts.hf and layouts.original):
        return None
    sizes = {"hf": 0, "original": 0, "other": 0}
    for file in chosen:
        for name, paths in (("other", layouts.other), ("hf", layouts.hf), ("original", layouts.original)):
            if file.path in paths:
                sizes[name] += file.size
                break
    if not (sizes["hf"] and sizes["original"]):
        return None
    return TwoLayouts(
        hf_leaves_out=sizes["original"] + sizes["other"], original_leaves_out=sizes["hf"] + sizes["other"]
    )


def _nothing_left(
    names: Sequence[str], include: Sequence[str], exclude: Sequence[str], layout: str | None
) -> AbsentError:
    given = [f"`{shown(name)}`" for name in names]
    given += [f"`--include {shown(pattern)}`" for pattern in include]
    given += [f"`--exclude {shown(pattern)}`" for pattern in exclude]
    given += [f"`--layout {layout}`"] if layout else []
    return AbsentError(
        f"no file is left by {', '.join(given[:6])}{' and more' if len(given) > 6 else ''}",
        hint="case counts in globs, `*` crosses `/`, and quotes keep the shell away from them",
    )


def _human(size: int) -> str:
    """Return bytes for people, in powers of 1000 as the Hub's pages show them."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
