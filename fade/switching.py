"""When does a concept settle? Images whose prompt is switched after each step of the sampler, as PCI does
(arXiv 2512.08486), and the steps in which a curve over the switch rises."""

from __future__ import annotations

import torch
from torch import Tensor

from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.embedding import Embedding


@torch.no_grad()
def switched(
    model: Diffusion, first: Embedding, then: Embedding, noise: Tensor, steps: int, guidance: float
) -> tuple[Tensor, Tensor]:
    """The sampler's times (S,), and latents z_0 (S + 1, B, C, h, w): of row k the first k steps were taken under
    `first`, the others under `then`. noise (B, C, h, w): all rows begin there.

    What rows have in common is done once: S (S + 3) / 2 steps of B images.
    """
    negative, sampler = model.negative(), model.sampler(steps, noise)
    own, after = noise, list[Tensor]()  # under `first` so far; switched before this step, before the last one, ...
    for t in sampler.timesteps:
        after.append(own)
        asked = [*((z, then) for z in after), (own, first)]
        told = torch.cat([model.guided(z, t, words, guidance, negative) for z, words in asked])
        *after, own = sampler.step(told, t, torch.cat([z for z, _ in asked])).prev_sample.split(len(noise))
    return sampler.timesteps, torch.stack([*after, own])


def travelled(latents: Tensor) -> Tensor:
    """(S + 1,): how far each row of `switched` has gone from the first, which never saw `first`, to the last, which saw
    nothing else: 0 to 1, along the straight way between them. Raises BadInput where there is no way."""
    away, way = latents - latents[0], latents[-1] - latents[0]
    length = way.square().sum()
    if not length > 0:
        raise BadInput(
            "the target's and the surrogate's captions give the same images, so no steps decide between them"
        )
    return (away * way).flatten(1).sum(1) / length


def rise(curve: Tensor, low: float, high: float) -> range:
    """The steps in which a curve (S + 1,) over the switch leaves `low` for the first time and reaches `high` for good.
    Raises BadInput where it never leaves it."""
    above, below = (curve > low).nonzero(), (curve < high).nonzero()
    if not len(above):
        raise BadInput(f"the curve over the switch never exceeds {low:g}; the concept is not drawn")
    last = int(below[-1]) + 1 if len(below) else 0
    begin, end = max(int(above[0]) - 1, 0), min(last, len(curve) - 1)
    return range(begin, max(end, begin + 1))


def stretch(times: Tensor, steps: range, total: int) -> tuple[float, float]:
    """Where the times of these steps lie, [low, high) of whole ones, (low, high] of a flow's: a step reaches from its
    own time down to the next one's, the first from `total`, the last to 0."""
    edges = [float(total), *(float(t) + (not times.is_floating_point()) for t in times[1:]), 0.0]
    return edges[steps.stop], edges[steps.start]
