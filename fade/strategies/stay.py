"""L1-SP and L2-SP: a pull toward the weights before the request (CUIG, arXiv 2511.07970)."""

from __future__ import annotations

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Batch
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.methods import Method
from fade.strategies import Around, Strategy, trained


class Stay(Strategy):
    """power 1: mean |θ − θ_before|; 2: mean (θ − θ_before)², over the weights that the adapter changes."""

    def __init__(self, power: int, weight: float) -> None:
        if power not in (1, 2):
            raise BadInput(f"strategy.power is {power}; choose 1 (L1-SP) or 2 (L2-SP)")
        self.power, self.weights = power, {"anchor": weight}

    def check(self, method: Method) -> None:
        trained(method, f"l{self.power}sp")

    def method(self, method: Method) -> Method:
        return Staying(method, self.power)


class Staying(Around):
    def __init__(self, inner: Method, power: int) -> None:
        super().__init__(inner)
        self.power = power
        self.terms = (*inner.terms, "anchor")

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        moved = torch.cat([adapter.change(name).flatten() for name in adapter.weights()])
        # d|x|/dx is 0 at 0, where every weight begins
        return {**super().losses(model, adapter, batch), "anchor": moved.abs().pow(self.power).mean()}
