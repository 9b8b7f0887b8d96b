"""A folder held against its repo's own headers: tensors, shapes, dtypes, sizes; which files to fetch again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Tensor
from fetchverify.core.diagnosis.findings import Finding, Origin

_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the comparison.

    Attributes:
        sizes: of the files that are compared by themselves, in bytes.
        tensors: by the file they lie in.
    """

    sizes: Mapping[str, int]
    tensors: Mapping[str, tuple[Tensor, ...]]


def judge_against(
    here: Side, there: Side, origin: Origin, *, differs: Callable[[str], bool] = lambda path: False
) -> Iterator[Finding]:
    """Yield what the folder has otherwise than the repo.

    Args:
        here: the folder.
        there: the repo.
        origin: the repo, for the command that fetches what is bad.
        differs: tells whether a file of equal size has another digest; asked for files that both sides have.
    """
    bad = [path for path, size in here.sizes.items() if path in there.sizes and there.sizes[path] != size]
    for path in bad:
        seen = f"{here.sizes[path]:,} bytes, the repo's has {there.sizes[path]:,}"
        yield finding("FV323", path, seen, origin=origin)
    same = [path for path, size in here.sizes.items() if there.sizes.get(path) == size]
    for path in same:
        if differs(path):
            yield finding("FV323", path, "it has the repo's size, and another digest", origin=origin)
    if not there.tensors:
        return
    mine = {tensor.name: tensor for tensors in here.tensors.values() for tensor in tensors}
    theirs = {tensor.name: (path, tensor) for path, tensors in there.tensors.items() for tensor in tensors}
    lost = sorted(name for name in theirs if name not in mine)
    if lost:
        yield _all("FV320", lost, theirs, origin, f"of {len(theirs):,}")
    both = [(mine[name], theirs[name][1]) for name in theirs if name in mine]
    other = [a.name for a, b in both if a.shape != b.shape]
    if other:
        a, b = next((a, b) for a, b in both if a.shape != b.shape)
        yield _all("FV321", other, theirs, origin, f"{list(a.shape)} in place of {list(b.shape)}")
    cast = [(a, b) for a, b in both if a.dtype != b.dtype]
    if cast:
        a, b = cast[0]
        seen = f"{len(cast):,} of {len(both):,}, such as `{a.name[:120]}`: {a.dtype} in place of {b.dtype}"
        yield finding("FV322", ".", seen, origin=origin)
    extra = sorted(name for name in mine if name not in theirs)
    if extra:
        yield finding("FV324", ".", _names(extra, ""), origin=origin)


def _all(
    code: str, names: Sequence[str], theirs: Mapping[str, tuple[str, Tensor]], origin: Origin, more: str
) -> Finding:
    files = tuple(sorted({theirs[name][0] for name in names}))
    return finding(code, ".", _names(names, more), origin=origin, fetch=files)


def _names(names: Sequence[str], more: str) -> str:
    shown = ", ".join(f"`{name[:120]}`" for name in names[:_SHOWN])
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} {more}: {shown}{rest}".replace(" :", ":")
