"""Several changes made one: their sum (a stack folded), or TIES (arXiv 2306.01708, as CUIG uses it, arXiv 2511.07970)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.errors import BadInput

Changes = dict[str, Tensor]  # name of a weight -> ΔW


def changes_of(adapter: Adapter) -> Changes:
    """What an attached adapter changes, at its scale, in single precision. Raises BadInput where that depends on the prompt."""
    if not adapter.mergeable:
        raise BadInput(f"adapter {adapter.name!r} depends on the prompt and has no fixed change to merge")
    return {name: delta.float() for name in adapter.places() if (delta := adapter.delta(name)) is not None}


@torch.no_grad()
def folded(adapters: Sequence[Adapter]) -> Changes:
    """The sum of what several attached adapters change, added in double precision and rounded once."""
    total: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, delta in changes_of(adapter).items():
            total[name] = total[name] + delta.double() if name in total else delta.double()
    return {name: delta.float() for name, delta in total.items()}


def trimmed(change: Changes, keep: float) -> Changes:
    """The fraction `keep` of all entries that is largest in magnitude; the rest is zero."""
    values = torch.cat([delta.flatten().abs() for delta in change.values()])
    kept = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    kept[values.topk(max(1, round(keep * len(values)))).indices] = True
    parts = kept.split([delta.numel() for delta in change.values()])
    return {name: delta * part.view_as(delta) for (name, delta), part in zip(change.items(), parts, strict=True)}


def ties(changes: list[Changes], keep: float = 0.2, scale: float = 1.75) -> Changes:
    """Trim each change, elect a sign for every weight, and average those that agree with it, times `scale` (λ).

    The defaults are CUIG's. Differs: one change alone is scaled by λ too, as the formula says.
    Raises BadInput for keep outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise BadInput(f"TIES keeps a fraction in (0, 1] of the entries, not {keep}")
    cut = [trimmed(change, keep) for change in changes]
    names = dict.fromkeys(name for change in cut for name in change)
    merged = {}
    for name in names:
        parts = torch.stack([change[name] for change in cut if name in change])
        agree = parts.sign() == parts.sum(0).sign()
        agree &= parts != 0
        merged[name] = scale * (parts * agree).sum(0) / agree.sum(0).clamp(min=1)
    return merged
