"""What the places of a change tell: what stood there is filled in from what stands around it, or relearnt there alone.

Refill: "Roots Beneath the Cut" on pruning, here on any sparse change: the changed weights are taken for missing, and
completed as a matrix of low rank, X ← observed where known, else U (S − τ)₊ Vᵀ of X, τ its smallest singular value.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fade.adapters import Masks
from fade.attacks import Attack, Find, Scene
from fade.attacks.numerics import check_merged, draw_changed
from fade.attacks.relearn import Relearn
from fade.checked import Count, Counts, Portion, Positive
from fade.models import Diffusion
from fade.models.ledger import present_weights, untouched_weights

SETTLED = 1e-5  # relative change at which the completion stops (released)


def changed(scene: Scene) -> Masks:
    """Where each weight is another than the base's: of the model whose mask is known, which a model that never saw the
    concept, another than the base everywhere, is attacked by too."""
    own, model = untouched_weights(scene.base.network), scene.masked or scene.model
    return {name: weight != own[name] for name, weight in present_weights(model.network).items()}


class Refill(Attack):
    """iterations: of the completion, at most. kept: of the filled weights the share that is largest in size, which then
    get their row's largest size and keep their sign.

    T3: the weights and the mask, without the base. Matrices that are changed everywhere, or nowhere, stay: there is
    nothing to fill them from. Differs: all changed matrices, where the released code has the second of each
    feed-forward; a row's largest size stands for its own, without the released draw above it.
    """

    level = "T3"
    seeded = False
    placed = True

    def __init__(self, iterations: Count = 500, kept: Portion = 0.6) -> None:
        self.iterations, self.kept = iterations, kept

    def suits(self, model: Diffusion) -> None:
        check_merged(model)

    def finds(self, scene: Scene) -> list[Find]:
        masks = {name: m for name, m in changed(scene).items() if m.dim() == 2 and m.any() and not m.all()}
        now = present_weights(scene.model.network)
        filled = {name: completed(now[name], mask, self.iterations) for name, mask in masks.items()}
        scaled = {name: enlarged(values, masks[name], self.kept) for name, values in filled.items()}
        ways = {"completed": filled, "completed, at the row's largest": scaled}
        return [Find(name, partial(draw_changed, scene, partial(_put, values))) for name, values in ways.items()]


def _put(values: dict[str, Tensor], name: str, weight: Tensor) -> Tensor:
    return values.get(name, weight)


@torch.no_grad()
def completed(weight: Tensor, missing: Tensor, iterations: int) -> Tensor:
    """The weight (out, in) with its missing entries filled, at first by the means of their columns."""
    known = ~missing
    means = (weight * known).sum(0) / known.sum(0).clamp(min=1)
    x = torch.where(known, weight, means)
    for _ in range(iterations):
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        new = torch.where(known, weight, (u * (s - s[-1])) @ v)
        settled = (new - x).norm() <= SETTLED * x.norm()
        x = new
        if settled:
            break
    return x


def enlarged(weight: Tensor, filled: Tensor, kept: float) -> Tensor:
    """The largest share `kept` of the filled entries at the largest size of the known ones of their row, the others at
    zero."""
    size = weight.abs()[filled]
    limit = size.kthvalue(max(1, len(size) - round(kept * len(size)))).values if kept < 1 else size.new_tensor(-1.0)
    most = torch.where(filled, 0, weight.abs()).amax(1, keepdim=True)
    large = torch.where(weight.abs() > limit, weight.sign() * most, 0)
    return torch.where(filled, large, weight)


class Within(Relearn):
    """where: relearning moves the changed weights alone (inside), all others (outside), or as many of each weight as
    were changed, at random. Where nothing was changed, as on the base, it moves them all."""

    placed = True

    def __init__(
        self,
        where: Literal["inside", "outside", "random"] = "inside",
        images: Count = 5,
        marks: Counts = (5, 10, 20, 40, 80),
        batch: Count = 4,
        rate: Positive | None = None,
    ) -> None:
        super().__init__(images, "weights", marks, batch, rate=rate)
        self.where = where

    def suits(self, model: Diffusion) -> None:
        check_merged(model)

    def masks(self, scene: Scene) -> Masks:
        found = changed(scene)
        if not any(mask.any() for mask in found.values()):
            return {}
        if self.where == "outside":
            return {name: ~mask for name, mask in found.items()}
        return found if self.where == "inside" else {name: shuffled(m, scene.seed) for name, m in found.items()}


def shuffled(mask: Tensor, seed: int) -> Tensor:
    """As many places, elsewhere."""
    order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed)).to(mask.device)
    return mask.flatten()[order].view_as(mask)
