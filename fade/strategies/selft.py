"""SelFT: only the most salient weights train (CUIG, arXiv 2511.07970)."""

from __future__ import annotations

from collections.abc import Sequence

from fade.adapters import Masks
from fade.methods import Method
from fade.sparsity import Sparsity, Weight
from fade.strategies import Strategy, trained


class SelFT(Strategy):
    """The top `p` of the candidate weights by the method's own saliency, whatever sparsity the method came with."""

    def __init__(self, p: float = 0.1) -> None:
        self.chosen = Weight(p)

    def check(self, method: Method) -> None:
        trained(method, "selft")

    def sparsity(self, sparsity: Sparsity, used: Sequence[Masks]) -> Sparsity:
        return self.chosen
