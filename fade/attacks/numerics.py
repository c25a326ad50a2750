"""Rounding and pruning: what a change of the weights survives. It does where it exceeds half a step of the rounding.

NF4 is emulated: QLoRA's sixteen levels (arXiv 2305.14314), as bitsandbytes stores them, in blocks of 64 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from fade.attacks import Attack, Find, Scene
from fade.attacks.relearn import freed
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.models.ledger import ledger, untouched_weights
from fade.models.quantization import BLOCK

Change = Callable[[str, Tensor], Tensor]  # (name of a weight, its values) -> values


def check_merged(model: Diffusion) -> None:
    """Raises BadInput where what was changed is not in the weights of the network."""
    if model.prompts.listeners:
        raise BadInput("the change depends on the prompt and is not in the weights alone, which this attack changes")
    if odd := [name for name in ledger(model.network).original if model.part_of(name) != model.denoiser]:
        raise BadInput(f"the change is of {odd[0]}, and this attack changes the weights of what denoises alone")


LEVELS = (  # the quantiles of a normal distribution, by their published values
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class Numerics(Attack):
    """bits: of every weight matrix, to nearest, a scale for each output. pruned: shares that are set to zero. nf4:
    linear layers in NF4, what is merged among them; and the base in NF4, the change beside it in full.

    Differs from bitsandbytes: the scales of the blocks are not rounded themselves (no double quantisation), and the
    arithmetic stays in float32.
    """

    level = "T3"
    fixed = True
    seeded = False

    def __init__(self, bits: Sequence[int] = (8, 4), pruned: Sequence[float] = (0.1, 0.3), nf4: bool = True) -> None:
        if not all(2 <= b <= 16 for b in bits) or not all(0 < p < 1 for p in pruned):
            raise BadInput("attack.numerics has bits from 2 to 16, and pruned between 0 and 1")
        self.bits, self.pruned, self.nf4 = list(bits), list(pruned), nf4

    def suits(self, model: Diffusion) -> None:
        check_merged(model)

    def finds(self, scene: Scene) -> list[Find]:
        ways: dict[str, Change] = {f"{b} bit": partial(_rounded, b) for b in self.bits}
        ways |= {f"{p:.0%} pruned": partial(_pruned, p) for p in self.pruned}
        if self.nf4:
            own = untouched_weights(scene.base.network)
            ways |= {"NF4": _packed, "base in NF4, change beside it": partial(_beside, own)}
        return [Find(name, partial(draw_changed, scene, change)) for name, change in ways.items()]


def _rounded(bits: int, _: str, weight: Tensor) -> Tensor:
    return rounded(weight, bits) if weight.dim() > 1 else weight


def _pruned(share: float, _: str, weight: Tensor) -> Tensor:
    return pruned(weight, share) if weight.dim() > 1 else weight


def _packed(_: str, weight: Tensor) -> Tensor:
    return nf4(weight) if weight.dim() == 2 else weight


def _beside(own: dict[str, Tensor], name: str, weight: Tensor) -> Tensor:
    return _packed(name, own[name]) + (weight - own[name])


def rounded(weight: Tensor, bits: int) -> Tensor:
    """To nearest of 2^bits − 1 levels, symmetric, the largest of each output (row) being the last of them."""
    last = 2 ** (bits - 1) - 1
    step = (weight.flatten(1).abs().amax(1) / last).clamp(min=1e-12).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / step).round() * step


def nf4(weight: Tensor) -> Tensor:
    """Each weight at the nearest of LEVELS, times the largest in size of its block of BLOCK in a row's order."""
    flat = weight.flatten()
    blocks = pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    levels = torch.tensor(LEVELS, device=weight.device, dtype=weight.dtype)
    middles = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(blocks / scale, middles)] * scale).flatten()[: len(flat)].view_as(weight)


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
