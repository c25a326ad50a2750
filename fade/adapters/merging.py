"""Several changes as one: their sum (a stack folded) or TIES (arXiv 2306.01708, as CUIG uses it, arXiv 2511.07970)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fade.adapters import Adapter, check_scale
from fade.errors import BadInput
from fade.largest import largest

Changes = dict[str, Tensor]  # name of a weight -> ΔW


def changes_of(adapter: Adapter) -> Changes:
    """What an adapter changes, at its scale, in single precision. Raises BadInput where it depends on the prompt."""
    if not adapter.mergeable:
        raise BadInput(f"adapter {adapter.name!r} depends on the prompt and has no fixed change to merge")
    return {name: change.float() for name in adapter.overwrites() if (change := adapter.exact(name)) is not None}


@torch.no_grad()
def folded(adapters: Sequence[Adapter]) -> Changes:
    """The sum of what several attached adapters change, added in double precision and rounded once."""
    total: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, delta in changes_of(adapter).items():
            total[name] = total[name] + delta.double() if name in total else delta.double()
    return {name: delta.float() for name, delta in total.items()}


def trimmed(change: Changes, keep: float) -> Changes:
    """Of each weight's non-zero entries the fraction `keep` that is largest in magnitude; the rest is zero."""
    counts = {name: max(1, round(keep * int(delta.count_nonzero()))) for name, delta in change.items()}
    return {name: delta * largest({name: delta.abs()}, counts[name])[name] for name, delta in change.items()}


def check_ties(keep: float, scale: float) -> None:
    """Raises BadInput for what TIES cannot keep, and for a factor that is none."""
    if not 0 < keep <= 1:
        raise BadInput(f"TIES keeps a fraction in (0, 1] of the entries, not {keep}")
    if check_scale(scale) <= 0:
        raise BadInput(f"the scale of TIES is {scale}; it must be above 0")


def ties(changes: list[Changes], keep: float = 0.4, scale: float = 1.75) -> Changes:
    """Trim each change, elect a sign for every weight, and average those that agree with it, times `scale` (λ).

    The defaults are CUIG's for Concept Ablation after five and six styles; its scripts tune both for each length (λ
    1.25 to 2.75, top-k 0.2 to 0.8), and its code says (1.0, 0.3). Trimmed weight by weight, as there; the TIES paper
    trims over everything at once. Differs: only non-zero entries count, for a sparse change is trimmed already, and
    keep = 0.2 of all would cut nothing of one with a tenth; one change alone is scaled by λ too, as the formula says;
    where the parts cancel exactly the result is zero, CUIG takes the sign of the majority of the whole tensor.
    Raises BadInput for keep outside (0, 1] and a scale that is none.
    """
    check_ties(keep, scale)
    cut = [trimmed(change, keep) for change in changes]
    names = dict.fromkeys(name for change in cut for name in change)
    merged = {}
    for name in names:
        parts = torch.stack([change[name] for change in cut if name in change])
        agree = parts.sign() == parts.sum(0).sign()
        agree &= parts != 0
        merged[name] = scale * (parts * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged
