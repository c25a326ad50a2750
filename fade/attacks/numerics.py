"""Rounding and pruning: what a change of the weights survives. It does where it exceeds half a step of the rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fade.attacks import Attack, Find, Scene
from fade.attacks.relearn import freed
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise

Change = Callable[[str, Tensor], Tensor]  # (name of a weight, its values) -> values


def check_merged(model: Diffusion) -> None:
    """Raises BadInput where what was changed is not in the weights."""
    if model.prompts.listeners:
        raise BadInput("the change depends on the prompt and is not in the weights alone, which this attack changes")


class Numerics(Attack):
    """bits: of every weight matrix, to nearest, a scale for each output. pruned: shares that are set to zero."""

    level = "T3"
    fixed = True

    def __init__(self, bits: Sequence[int] = (8, 4), pruned: Sequence[float] = (0.1, 0.3)) -> None:
        if not all(2 <= b <= 16 for b in bits) or not all(0 < p < 1 for p in pruned):
            raise BadInput("attack.numerics has bits from 2 to 16, and pruned between 0 and 1")
        self.bits, self.pruned = list(bits), list(pruned)

    def suits(self, model: Diffusion) -> None:
        check_merged(model)

    def finds(self, scene: Scene) -> list[Find]:
        ways: dict[str, Change] = {f"{b} bit": partial(_rounded, b) for b in self.bits}
        ways |= {f"{p:.0%} pruned": partial(_pruned, p) for p in self.pruned}
        return [Find(name, partial(draw_changed, scene, change)) for name, change in ways.items()]


def _rounded(bits: int, _: str, weight: Tensor) -> Tensor:
    return rounded(weight, bits) if weight.dim() > 1 else weight


def _pruned(share: float, _: str, weight: Tensor) -> Tensor:
    return pruned(weight, share) if weight.dim() > 1 else weight


def rounded(weight: Tensor, bits: int) -> Tensor:
    """To nearest of 2^bits − 1 levels, symmetric, the largest of each output (row) being the last of them."""
    last = 2 ** (bits - 1) - 1
    step = (weight.flatten(1).abs().amax(1) / last).clamp(min=1e-12).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / step).round() * step


def pruned(weight: Tensor, share: float) -> Tensor:
    """The smallest in size of a matrix set to zero."""
    limit = weight.abs().flatten().kthvalue(max(1, round(share * weight.numel()))).values
    return torch.where(weight.abs() <= limit, 0, weight)


def draw_changed(scene: Scene, change: Change, cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
    """Images of the captions by the model with other weights."""
    with freed(scene.model) as adapter, torch.no_grad():
        for name, weight in zip(adapter.names(), adapter.parameters(), strict=True):
            weight.data = change(name, weight.data)
        return scene.plain(cells, noise)
