"""What training leaves: distributed checkpoints, DeepSpeed's ranks, verl's; whole, and whose base they need."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import DcpSeen, Shape, Slice
from fetchverify.core.diagnosis.findings import Finding, Origin
from fetchverify.core.diagnosis.layouts import VERL_PART, FolderSeen

_OPTIM = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_optim_states\.pt")
_MODEL = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{1,6})_model_states\.pt")
# What may stand in a command that is shown: no option, no path.
REPO = re.compile(r"(?:\w[\w.-]{0,94}/)?\w[\w.-]{0,94}", re.ASCII)


def base_of(folder: FolderSeen) -> str | None:
    """Return the base model that `train_params.yaml` names (llama-recipes writes it beside its checkpoint)."""
    seen = folder.files.get("train_params.yaml")
    if seen is None or not isinstance(seen.value, dict):
        return None
    name = seen.value.get("model_name")
    return name if isinstance(name, str) and REPO.fullmatch(name) else None


def _needs_conversion(folder: FolderSeen, what: str) -> Finding:
    base = base_of(folder)
    config = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json")
    origin = Origin(repo_id=base)
    if base is None:
        return finding("FV408", folder.path, what, origin=origin, fetch=config)
    return finding("FV408", folder.path, f"{what}; its base is `{base}`", origin=origin, fetch=config)


def judge_dcp(folder: FolderSeen) -> Iterator[Finding]:
    """Yield what is wrong with a torch distributed checkpoint."""
    metadata = folder.files.get(".metadata")
    if metadata is None:
        count = sum(name.endswith(".distcp") for name in folder.files)
        yield finding("FV401", folder.path, f"{count:,} data files, no `.metadata`", origin=folder.origin)
    if metadata is not None and metadata.dcp is not None:
        yield from _records(folder, metadata.dcp)
        yield from _tiling(folder, metadata.dcp)
        roots = f" ({', '.join(metadata.dcp.roots[:4])})" if metadata.dcp.roots else ""
        what = f"{len(metadata.dcp.tensors):,} tensors{roots}"
        if metadata.dcp.transformed:
            what += ", compressed or encrypted by the writer"
        yield _needs_conversion(folder, what)
    else:
        yield _needs_conversion(folder, "a distributed checkpoint")


def _records(folder: FolderSeen, dcp: DcpSeen) -> Iterator[Finding]:
    ends: dict[str, int] = defaultdict(int)
    for record in dcp.records:
        ends[record.path] = max(ends[record.path], record.start + record.length)
    lost = sorted(path for path in ends if path not in folder.files)
    if lost:
        shown = ", ".join(f"`{path[:80]}`" for path in lost[:4])
        yield finding(
            "FV402", folder.path, f"{len(lost):,} of {len(ends):,} are not there: {shown}", origin=folder.origin
        )
    for path, end in sorted(ends.items()):
        seen = folder.files.get(path)
        if seen is not None and seen.entry.size < end:
            what = f"{seen.entry.size:,} of at least {end:,} bytes are there"
            yield finding("FV403", folder.at(path), what, origin=folder.origin)


def _tiling(folder: FolderSeen, dcp: DcpSeen) -> Iterator[Finding]:
    stored = {record.name for record in dcp.records}
    for tensor in dcp.tensors:
        covered = 0
        places = set()
        inside = True
        for offsets, sizes in dcp.chunks.get(tensor.name, ()):
            volume = 1
            for size in sizes:
                volume *= size
            covered += volume
            places.add(offsets)
            inside &= len(sizes) == len(tensor.shape) and all(
                at + size <= side for at, size, side in zip(offsets, sizes, tensor.shape, strict=True)
            )
        if not inside or covered != tensor.elements or (tensor.elements and tensor.name not in stored):
            seen = f"`{tensor.name[:120]}` of shape {list(tensor.shape)}: {covered:,} of {tensor.elements:,} numbers"
            yield finding("FV404", folder.at(".metadata"), seen, origin=folder.origin)
            return


def judge_verl(folder: FolderSeen) -> Iterator[Finding]:
    """Yield what is wrong with verl's files: one a rank, all of one world."""
    worlds: dict[int, set[int]] = defaultdict(set)
    for name in folder.files:
        found = VERL_PART.fullmatch(name)
        if found is not None:
            worlds[int(found[1])].add(int(found[2]))
    for world, ranks in worlds.items():
        lost = [rank for rank in range(min(world, 100_000)) if rank not in ranks]
        if lost:
            yield finding("FV409", folder.path, f"{_ranks(lost)} of {world:,}", origin=folder.origin)
        else:
            yield from _placements(folder, world)
        yield _needs_conversion(folder, f"{len(ranks):,} ranks of verl")


def _placements(folder: FolderSeen, world: int) -> Iterator[Finding]:
    """Yield that the ranks of a world, which are all there, do not make up whole tensors: names, shapes, places."""
    names = [f"model_world_size_{world}_rank_{rank}.pt" for rank in range(world)]
    told = [folder.files[name] for name in names if name in folder.files]
    if not told or len(told) != world or any(seen.tensors is None for seen in told):
        return
    ranks = [{tensor.name: tensor.shape for tensor in seen.tensors or ()} for seen in told]
    slices = [seen.value if isinstance(seen.value, dict) else {} for seen in told]
    for rank, name in enumerate(names):
        other = sorted(ranks[rank].keys() ^ ranks[0].keys())
        if other:
            seen = f"rank {rank} and rank 0 differ in {len(other):,} tensors, such as `{other[0][:120]}`"
            yield finding("FV407", folder.at(name), seen, origin=folder.origin)
            return
    for tensor in ranks[0]:
        parts = [one.get(tensor) for one in slices]
        shapes = [one[tensor] for one in ranks]
        if any(part != parts[0] for part in parts) or not _make_up(parts[0], shapes):
            whole = f" of {list(parts[0].shape)}" if parts[0] is not None else ""
            seen = f"`{tensor[:120]}`{whole}: the ranks hold {', '.join(str(list(one)) for one in shapes[:4])}"
            yield finding("FV407", folder.path, seen, origin=folder.origin)
            return


def _make_up(part: Slice | None, shapes: Sequence[Shape]) -> bool:
    """Tell whether slices of these shapes may be one tensor; of a mesh of several dimensions their number alone."""
    if part is None:
        return True  # cut in a way that this does not know
    if any(len(shape) != len(part.shape) for shape in shapes):
        return False
    cut = {side for side in part.sides if side is not None}
    if not all(-len(part.shape) <= side < len(part.shape) for side in cut):
        return False
    cut = {side % len(part.shape) for side in cut}
    rest = all(shape[side] == whole for side, whole in enumerate(part.shape) if side not in cut for shape in shapes)
    if len(part.sides) > 1 or not cut:
        return rest and all(here <= whole for shape in shapes for here, whole in zip(shape, part.shape, strict=True))
    (side,) = cut
    return rest and sum(shape[side] for shape in shapes) == part.shape[side]


def judge_zero(top: FolderSeen, steps: Sequence[FolderSeen]) -> Iterator[Finding]:
    """Yield what is wrong with a DeepSpeed checkpoint: `latest`, and a file of states a rank in each step's folder."""
    names = {step.path.rpartition("/")[2] for step in steps}
    latest = top.files.get("latest")
    said = latest.value.strip() if latest is not None and isinstance(latest.value, str) else None
    if latest is None:
        yield finding("FV405", top.path, f"no `latest` beside {', '.join(sorted(names)[:3])}", origin=top.origin)
    elif said is not None and said not in names:
        yield finding("FV405", top.path, f"`latest` says `{said[:80]}`, which is not there", origin=top.origin)
    for step in steps:
        yield from _step(step)


def _step(step: FolderSeen) -> Iterator[Finding]:
    optim = {int(found[1]): name for name in step.files if (found := _OPTIM.fullmatch(name))}
    model = {int(found[1] or 0): name for name in step.files if (found := _MODEL.fullmatch(name))}
    counts = [value for name in optim.values() if type(value := _told(step, name, "partition_count")) is int]
    world = max([*optim, *model, -1]) + 1
    world = min(max([world, *counts]), 100_000)
    lost = [rank for rank in range(world) if rank not in optim]
    if lost:
        yield finding("FV406", step.path, f"{_ranks(lost)} of {world:,}", origin=step.origin)
    if not model:
        yield finding("FV406", step.path, "no `*_model_states.pt`, which names the tensors", origin=step.origin)
    sizes = defaultdict(list)
    for name in optim.values():
        size = _told(step, name, "flat_sizes")
        if size is not None:
            sizes[size].append(name)
    if len(sizes) > 1:
        rare = min(sizes.values(), key=len)
        yield finding(
            "FV407", step.at(rare[0]), f"{len(rare)} of {len(optim)} ranks differ from the others", origin=step.origin
        )
    yield _needs_conversion(step, f"{len(optim):,} ranks of DeepSpeed ZeRO")


def _told(step: FolderSeen, name: str, key: str) -> object:
    value = step.files[name].value
    return value.get(key) if isinstance(value, dict) else None


def _ranks(lost: Sequence[int]) -> str:
    shown = ", ".join(map(str, lost[:6]))
    more = f" and {len(lost) - 6:,} more" if len(lost) > 6 else ""
    return f"rank {shown}" if len(lost) == 1 else f"ranks {shown}{more}"
