"""A tree of folders judged as a whole: places, each folder's rules, and what only several folders together show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fetchverify.core.diagnosis import layouts
from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import FileSeen
from fetchverify.core.diagnosis.filerules import judge_file
from fetchverify.core.diagnosis.findings import Finding, Origin, Place, Severity
from fetchverify.core.diagnosis.folderrules import judge_folder
from fetchverify.core.diagnosis.layouts import FolderSeen
from fetchverify.core.diagnosis.securityrules import judge_security
from fetchverify.core.diagnosis.stackrules import judge_stack
from fetchverify.core.diagnosis.trainrules import judge_zero

_EMPTY = "there is no file in it"


def folders_of(files: Iterable[FileSeen], origin: Origin) -> dict[str, FolderSeen]:
    """Return the folders of a tree by their paths, `.` first."""
    by_folder: dict[str, dict[str, FileSeen]] = {".": {}}
    inside: dict[str, set[str]] = {".": set()}
    for seen in files:
        parent, _, name = seen.entry.path.rpartition("/")
        by_folder.setdefault(parent or ".", {})[name] = seen
        while parent:
            upper, _, child = parent.rpartition("/")
            by_folder.setdefault(parent, {})
            by_folder.setdefault(upper or ".", {})
            inside.setdefault(upper or ".", set()).add(child)
            parent = upper
    return {
        path: FolderSeen(path=path, files=names, folders=frozenset(inside.get(path, ())), origin=origin)
        for path, names in sorted(by_folder.items(), key=lambda item: (item[0] != ".", item[0]))
    }


def recognise_all(folders: Mapping[str, FolderSeen]) -> dict[str, tuple[str, ...]]:
    """Return the layouts of each folder that has one."""
    found: dict[str, tuple[str, ...]] = {}
    for path, folder in folders.items():
        parent = path.rpartition("/")[0] or "."
        above = found.get(parent, ()) if path != "." else ()
        adapter = folders.get(folder.at("adapter"))
        one = layouts.recognise(folder, above, adapter.files.keys() if adapter is not None else ())
        if not one and _is_pipeline(folder, folders):
            one = (layouts.DIFFUSERS,)
        if one:
            found[path] = one
    return found


def _is_pipeline(folder: FolderSeen, folders: Mapping[str, FolderSeen]) -> bool:
    """Tell a pipeline of diffusers that lost its model_index.json: a scheduler and weights lie side by side."""
    inside = [folders[folder.at(name)].files.keys() for name in folder.folders]
    weights = any(name.startswith("diffusion_pytorch_model.") for names in inside for name in names)
    return weights and any("scheduler_config.json" in names for names in inside)


def judge_tree(files: Iterable[FileSeen], origin: Origin) -> tuple[tuple[Place, ...], tuple[Finding, ...]]:
    """Return where which layouts lie, and what is wrong, gravest file troubles first."""
    files = tuple(files)
    folders = folders_of(files, origin)
    found = recognise_all(folders)
    findings = [one for seen in files for one in judge_file(seen, origin)]
    for path, names in found.items():
        findings += judge_folder(folders[path], names)
        if layouts.DIFFUSERS in names:
            findings += _pipeline(folders[path], folders)
        if {layouts.STACK_META, layouts.STACK_ADAPTER} & {*names}:
            findings += judge_stack(folders[path], folders.get(folders[path].at("adapter")), names)
        if layouts.ZERO in names:
            steps = [
                folders[folders[path].at(name)]
                for name in sorted(folders[path].folders)
                if layouts.STEP.fullmatch(name)
            ]
            findings += judge_zero(folders[path], steps) if steps else judge_zero_alone(folders[path])
    findings = [_beside_original(one, folders, found) for one in findings]
    findings += _still_here(findings, folders, found, origin)
    if not found:
        seen = f"{len(files):,} file{'s' if len(files) != 1 else ''}, none of a model" if files else _EMPTY
        findings.append(finding("FV217", ".", seen))
    findings += judge_security(files)
    places = tuple(Place(path=path, layout=name) for path, names in found.items() for name in names)
    return places, tuple(findings)


def judge_zero_alone(folder: FolderSeen) -> Iterator[Finding]:
    """Yield the findings on a folder of ranks that was named itself."""
    for one in judge_zero(folder, [folder]):
        if one.code != "FV405":
            yield one


def _beside_original(one: Finding, folders: Mapping[str, FolderSeen], found: Mapping[str, tuple[str, ...]]) -> Finding:
    """Return the finding, milder where the weights that HF's layout lacks lie beside it in Meta's.

    A base so downloaded is what torchtune and Llama-Stack train from.
    """
    place = folders[one.path].at("original") if one.code == "FV202" else ""
    if layouts.META not in found.get(place, ()):
        return one
    return replace(one, severity=Severity.WARNING, seen=f"{one.seen}; Meta's form of them lies in `{place}`")


def _still_here(
    findings: Iterable[Finding], folders: Mapping[str, FolderSeen], found: Mapping[str, tuple[str, ...]], origin: Origin
) -> Iterator[Finding]:
    """Yield that the numbers an empty file lacks lie in a checkpoint beside it."""
    hollow = next((one.path for one in findings if one.code in {"FV308", "FV309"}), None)
    if hollow is None:
        return
    for path, names in found.items():
        if layouts.ZERO in names:
            steps = [name for name in folders[path].folders if layouts.STEP.fullmatch(name)]
            where = folders[path].at(max(steps, key=lambda name: (len(name), name))) if steps else path
            yield finding("FV415", where, f"what `{hollow}` lacks was saved by ZeRO in `{where}`", origin=origin)


# --- diffusers

_MODEL_FILE = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)(?P<variant>\.(?!safetensors|bin|index)\w+)?"
    r"(?:-\d{5}-of-\d{5})?(?P<late>\.(?!safetensors|bin|index)\w+)?\.(?:safetensors|bin)"
)


def _pipeline(top: FolderSeen, folders: Mapping[str, FolderSeen]) -> Iterator[Finding]:
    if "model_index.json" not in top.files:
        shown = ", ".join(f"`{name}`" for name in sorted(top.folders)[:6])
        fetch = (top.at("model_index.json"),)
        yield finding("FV223", top.path, f"components without it: {shown}", origin=top.origin, fetch=fetch)
    value: Mapping[str, Any] = top.value("model_index.json") or {}
    variants: dict[str, set[str]] = {}
    for name, pair in value.items():
        if name.startswith("_") or not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], str):
            continue
        place = folders.get(top.at(name))
        lost = _lacks(name, pair[1], place)
        if lost is not None:
            fetch = (top.at(f"{name}/*"),)
            yield finding("FV214", top.path, f"`{name}` ({pair[1][:60]}) {lost}", origin=top.origin, fetch=fetch)
        elif place is not None:
            found = {
                (one["variant"] or one["late"] or "") for file in place.files if (one := _MODEL_FILE.fullmatch(file))
            }
            if found:
                variants[name] = found
    common = set.intersection(*variants.values()) if variants else {""}
    if not common:
        shown = ", ".join(f"`{name}` {'/'.join(sorted(v or 'without' for v in one))}" for name, one in variants.items())
        yield finding("FV215", top.path, shown, origin=top.origin)


def _lacks(name: str, kind: str, place: FolderSeen | None) -> str | None:
    """Return what a component lacks; None where it is whole."""
    if place is None or not place.files:
        return "is not there"
    names = place.files.keys()
    if kind.endswith("Scheduler"):
        return None if "scheduler_config.json" in names else "lacks scheduler_config.json"
    if kind.endswith(("Tokenizer", "TokenizerFast")):
        whole = {"tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "vocab.txt"} & names
        return None if whole else "lacks its vocabulary"
    if kind.endswith(("Processor", "FeatureExtractor", "ProcessorFast")):
        whole = {"preprocessor_config.json", "processor_config.json", "tokenizer_config.json"} & names
        return None if whole else "lacks preprocessor_config.json"
    if "config.json" not in names:
        return "lacks config.json"
    return None if any(_MODEL_FILE.fullmatch(file) for file in names) else "lacks its weights"
