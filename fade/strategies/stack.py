"""FADE's own sequence: a new sparse adapter for each request on top of a frozen stack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fade.adapters import Masks
from fade.saliency import Saliency, whole
from fade.sparsity import Sparsity
from fade.strategies import Strategy


class Stack(Strategy):
    """Captions that earlier requests removed are held where they are, on images of their surrogates: no forgotten image
    is touched. avoid: a new mask keeps off the weights that earlier adapters use."""

    guard = True

    def __init__(self, avoid: bool = False) -> None:
        self.avoid = avoid

    def sparsity(self, sparsity: Sparsity, used: Sequence[Masks]) -> Sparsity:
        return Avoiding(sparsity, used) if self.avoid and used and sparsity.kind != "dense" else sparsity


class Avoiding(Sparsity):
    """A sparsity that sees no saliency where earlier adapters change a weight."""

    def __init__(self, inner: Sparsity, used: Sequence[Masks]) -> None:
        super().__init__(inner.p)
        self.inner, self.kind, self.used = inner, inner.kind, used

    def suits(self, weights: dict[str, Tensor]) -> None:
        self.inner.suits(weights)

    def __call__(self, saliency: Saliency) -> Masks:
        return self.inner({name: self._free(name, values) for name, values in whole(saliency).items()})

    def _free(self, name: str, values: Tensor) -> Tensor:
        taken = torch.zeros_like(values, dtype=torch.bool)
        for masks in self.used:
            if name in masks:
                taken |= masks[name].to(taken.device)
        return values.masked_fill(taken, 0.0)
