"""L1-SP and L2-SP: a pull toward the weights before the request (CUIG, arXiv 2511.07970)."""

from __future__ import annotations

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput
from fade.methods import Method
from fade.models import Diffusion
from fade.strategies import Around, Strategy, trained


class Stay(Strategy):
    """power 1: mean |θ − θ_before|; 2: mean (θ − θ_before)², over the weights that the adapter may change, its masks'.

    A mean over N weights pulls each with weight/N: the same number holds fewer weights faster. CUIG's is over the 19
    million keys and values of Stable Diffusion.
    """

    def __init__(self, power: int, weight: float) -> None:
        if power not in (1, 2):
            raise BadInput(f"strategy.power is {power}; choose 1 (L1-SP) or 2 (L2-SP)")
        self.power, self.weight = power, weight

    def check(self, method: Method) -> None:
        trained(method, f"l{self.power}sp")

    def method(self, method: Method) -> Method:
        return Staying(method, self.power, self.weight)


class Staying(Around):
    def __init__(self, inner: Method, power: int, weight: float) -> None:
        super().__init__(inner)
        self.power, self.free = power, 0
        self.terms = {**inner.terms, "anchor": weight}

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().prepare(model, adapter, pairs)
        self.free = 0  # the masks come later

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        self.free = self.free or sum(int(mask.sum()) for mask in adapter.masks().values())
        # d|x|/dx is 0 at 0, where every weight begins
        moved = torch.stack([adapter.delta(name).abs().pow(self.power).sum() for name in adapter.weights()])
        return {**super().losses(model, adapter, batch), "anchor": moved.sum() / self.free}
