"""Saliency -> masks, each with the kept fraction p: dense, module, neuron, weight, random."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fade.adapters import Adapter, Formed, Masks
from fade.checked import Seed, Share
from fade.errors import BadInput
from fade.largest import largest
from fade.saliency import Saliency, whole


class Sparsity(ABC):
    """A rule that keeps the fraction p of the candidate weights. Raises BadInput for p outside (0, 1].

    sides: whether it asks for no more of a layer's scores than their sums along rows and columns.
    """

    kind: str
    sides = False

    def __init__(self, p: Share) -> None:
        if not 0 < p <= 1:
            raise BadInput(f"sparsity.p is {p}; the kept fraction must lie in (0, 1]")
        self.p = p

    @abstractmethod
    def __call__(self, saliency: Saliency) -> Masks:
        """Boolean masks with the keys and shapes of the saliency."""

    def suits(self, weights: dict[str, Tensor]) -> None:  # noqa: B027 - most score whatever there is
        """Raises BadInput for candidate weights that this rule cannot score."""


class Dense(Sparsity):
    """Everything: an ordinary LoRA on the candidate layers."""

    kind = "dense"

    def __init__(self, p: Share = 1.0) -> None:
        if p != 1:
            raise BadInput(
                f"sparsity=dense keeps everything, so sparsity.p must be 1, not {p}; choose another sparsity"
            )
        super().__init__(p)

    def __call__(self, saliency: Saliency) -> Masks:
        return {name: torch.ones(s.shape, dtype=torch.bool, device=s.device) for name, s in saliency.items()}


class Module(Sparsity):
    """Whole layers: the top int(N·p), at least one, by mean saliency (FADE's per-module LoRA, candidates only)."""

    kind = "module"
    sides = True

    def __call__(self, saliency: Saliency) -> Masks:
        kept = set(sorted(saliency, key=lambda n: -saliency[n].mean().item())[: max(1, int(len(saliency) * self.p))])
        layers = {name: (s.shape, name in kept, s.device) for name, s in saliency.items()}
        return Formed(layers, lambda layer: torch.full(layer[0], layer[1], device=layer[2]))


class Weight(Sparsity):
    """Single weights above one global threshold, the top-p quantile over all candidates (FADE's weight masks).

    Differs from the authors' code: ties at the threshold are cut by position, so exactly round(p·N) weights are kept.
    """

    kind = "weight"

    def __call__(self, saliency: Saliency) -> Masks:
        scores = whole(saliency)
        return largest(scores, max(1, round(self.p * sum(s.numel() for s in scores.values()))))


class Neuron(Sparsity):
    """This project's own: in each layer the top √p output neurons times the top √p input features, M = u vᵀ.

    The kept rectangle is the fraction p of every layer, and the masked adapter is an ordinary LoRA of the same rank.
    """

    kind = "neuron"
    sides = True

    def __call__(self, saliency: Saliency) -> Masks:
        sides = {name: (self._top(s.sum(1)), self._top(s.sum(0))) for name, s in saliency.items()}
        return Formed(sides, lambda kept: torch.outer(*kept))

    def suits(self, weights: dict[str, Tensor]) -> None:
        odd = [name for name, weight in weights.items() if weight.dim() != 2]
        if odd:
            raise BadInput(
                f"sparsity=neuron keeps rows and columns of matrices, and {len(odd)} of the weights are none (first: "
                f"{odd[0]} {tuple(weights[odd[0]].shape)}); use sparsity=weight or module, or narrower adapter.targets"
            )

    def _top(self, scores: Tensor) -> Tensor:
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[scores.topk(max(1, round(math.sqrt(self.p) * len(scores)))).indices] = True
        return kept


class Random(Sparsity):
    """The control: the same shape of mask as `like` (neuron or weight), the same p, from random scores."""

    kind = "random"

    def __init__(self, p: Share, seed: Seed, like: str = "neuron") -> None:
        super().__init__(p)
        if like not in ("neuron", "weight"):
            raise BadInput(f"sparsity.like is {like!r}; a random mask can be like neuron or weight")
        self.shape: Sparsity = Neuron(p) if like == "neuron" else Weight(p)
        self.seed, self.sides = seed, self.shape.sides

    def suits(self, weights: dict[str, Tensor]) -> None:
        self.shape.suits(weights)

    def __call__(self, saliency: Saliency) -> Masks:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = ((name, torch.rand(s.shape, generator=generator)) for name, s in saliency.items())
        if not self.sides:
            return self.shape(dict(drawn))
        alone = {name: self.shape({name: scores}) for name, scores in drawn}  # a layer's scores at a time
        return Formed(alone, lambda one: next(iter(one.values())))


def summed(sparsity: Sparsity, adapter: Adapter) -> bool:
    """Whether stage one keeps sums along rows and columns alone: where they will do, but of a base in single precision,
    which is small, and whose scores runs of several sparsities share in one file."""
    single = all(weight.dtype == torch.float32 for weight in adapter.weights().values())
    return sparsity.sides and adapter.kind == "lora" and not single


def density(masks: Masks) -> float:
    """The kept fraction that the masks really have."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
