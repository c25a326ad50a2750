"""An adapter for each request, each trained on the base alone, attached together (CUIG, arXiv 2511.07970)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fade.adapters import Adapter
from fade.adapters.merging import changes_of, ties
from fade.adapters.patch import Patch
from fade.errors import BadInput
from fade.models import Diffusion
from fade.strategies import Strategy


class Independent(Strategy):
    """compose: "sum" of the changes, or "ties": trimmed to the largest `keep`, one sign elected, averaged, times
    `scale`: fade/adapters/merging.py says where the defaults come from."""

    on_base = True

    def __init__(self, compose: str = "sum", keep: float = 0.4, scale: float = 1.75) -> None:
        if compose not in ("sum", "ties"):
            raise BadInput(f"strategy.compose is {compose!r}; choose sum or ties")
        self.compose, self.keep, self.scale = compose, keep, scale
        self.sums = compose == "sum"

    @torch.no_grad()
    def assemble(self, model: Diffusion, adapters: Sequence[Adapter]) -> list[Adapter]:
        if self.compose == "sum" or len(adapters) < 2:
            return list(adapters)
        merged = ties([changes_of(adapter) for adapter in adapters], self.keep, self.scale)
        for adapter in adapters:
            adapter.detach()
        return [Patch.of(model, merged, "ties")]
