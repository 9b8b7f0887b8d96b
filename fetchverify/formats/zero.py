"""File names of a DeepSpeed checkpoint: which ranks a folder holds. Source: DeepSpeed 0.19 `runtime/engine.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_OPTIM = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_optim_states\.pt")
_MODEL = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{1,6})_model_states\.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSet:
    """The files of one `global_step*` folder: ranks of each kind."""

    optim_ranks: tuple[int, ...]
    model_ranks: tuple[int, ...]
    stage3: bool
    tensor_parallel: int

    @property
    def missing(self) -> tuple[int, ...]:
        """Return the ranks without a file of optimizer states, below the highest that is named by any file."""
        ranks = {*self.optim_ranks, *(self.model_ranks if self.stage3 else ())}
        return tuple(rank for rank in range(max(ranks, default=-1) + 1) if rank not in self.optim_ranks)[:1000]


def zero_set(names: Iterable[str]) -> ZeroSet | None:
    """Return what the names of a folder's files tell; None where none is DeepSpeed's."""
    optim: set[int] = set()
    model: set[int] = set()
    parallel: set[int] = set()
    stage3 = False
    for name in names:
        if (found := _OPTIM.fullmatch(name)) is not None:
            optim.add(int(found[1]))
            parallel.add(int(found[2]))
        elif (found := _MODEL.fullmatch(name)) is not None:
            stage3 |= found[1] is not None
            model.add(int(found[1] or 0))
            parallel.add(int(found[2]))
    if not optim and not model:
        return None
    return ZeroSet(
        optim_ranks=tuple(sorted(optim)),
        model_ranks=tuple(sorted(model)),
        stage3=stage3,
        tensor_parallel=len(parallel),
    )
