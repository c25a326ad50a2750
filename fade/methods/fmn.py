"""Forget-Me-Not: cross-attention to the concept's tokens is driven to zero (arXiv 2303.17591).

L = ‖A[:, :, concept tokens]‖_F over all cross-attention layers and heads, on noised images of the concept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Batch, Pairs
from fade.diffusion import Diffusion
from fade.methods import Method, named_in_all, noised


class ForgetMeNot(Method):
    """No term for what is to be kept, and no teacher. end: also [EOT] and the padding after it, which is the same token
    (the released `use_pooler`).

    Differs: the concept's own words are used, without textual inversion before; A is averaged over the batch so that the
    loss does not grow with it.
    """

    terms = ("forget",)

    def __init__(self, end: bool = False) -> None:
        self.end = end

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        named_in_all(model, pairs, "Forget-Me-Not drives attention to the concept's tokens to zero")

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget = batch["forget"]
        with model.attention() as maps:
            model.predict(noised(model, forget), forget["t"], forget["prompt"])
        tokens = forget["concept"]
        if self.end:
            tokens = tokens | (torch.arange(tokens.shape[1], device=tokens.device) >= forget["end"][:, None])
        squares = [(a.square() * tokens[:, None, None].to(a)).sum() for a in maps]
        return {"forget": (torch.stack(squares).sum() / len(tokens)).sqrt()}
