"""Several changes of one model made into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(changes: Sequence[dict[str, Tensor]], keep: float, scale: float) -> dict[str, Tensor]:
    """TIES merging (arXiv 2306.01708) of weight changes, as CUIG uses it (keep 0.2, scale 1.75).

    Each change is trimmed to its largest `keep` over all its weights; the sign of each weight is the one with the larger
    sum; the changes with that sign are averaged and multiplied by `scale`. A name that a change lacks counts as zero.
    """
    names = list(dict.fromkeys(name for change in changes for name in change))
    shapes = {name: next(change[name] for change in changes if name in change) for name in names}
    flat = torch.stack(
        [torch.cat([change.get(name, torch.zeros_like(shapes[name])).flatten() for name in names]) for change in changes]
    )
    kept = max(1, round(keep * flat.shape[1]))
    floor = flat.abs().kthvalue(flat.shape[1] - kept + 1, dim=1, keepdim=True).values
    flat = torch.where(flat.abs() >= floor, flat, torch.zeros_like(flat))
    agree = flat.sign() == flat.sum(0).sign()
    merged = (flat * agree).sum(0) / (agree & (flat != 0)).sum(0).clamp(min=1) * scale
    parts = merged.split([shapes[name].numel() for name in names])
    return {name: part.reshape(shapes[name].shape) for name, part in zip(names, parts, strict=True)}
