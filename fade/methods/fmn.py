"""Forget-Me-Not: cross-attention to the concept's tokens is driven to zero (arXiv 2303.17591).

L = ‖A[:, :, concept tokens]‖_F over all cross-attention layers and heads, on noised images of the concept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch, Pairs
from fade.methods import Method, check_maps, named_in_all, noised
from fade.models import Diffusion


class ForgetMeNot(Method):
    """No term for what is to be kept, and no teacher. end: also every [EOT] (`use_pooler`, on in the released settings
    and in UnlearnCanvas's): of Stable Diffusion 1 all the padding is [EOT]; of 2 it is "!", and one position is.

    Differs: the concept's own words are used, without textual inversion before; A is averaged over the batch so that
    the loss does not grow with it.
    """

    terms: Mapping[str, float] = {"forget": 1.0}

    def __init__(self, end: bool = True, terms: Mapping[str, NonNegative] | None = None) -> None:
        self.end, self.terms = end, self.weighted(terms)
        self.variant = "" if end else "concept tokens alone"

    def check_family(self, family: type[Diffusion]) -> None:
        check_maps(family)

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        named_in_all(model, pairs, "Forget-Me-Not drives attention to the concept's tokens to zero")

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        tokenizer = model.texts[0].tokenizer
        self.padded = tokenizer.pad_token_id == tokenizer.eos_token_id

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget = batch["forget"]
        with model.attention() as maps:
            model.predict(noised(model, forget), forget["t"], forget["prompt"])
        tokens = forget["concept"]
        if self.end:
            places, end = torch.arange(tokens.shape[1], device=tokens.device), forget["end"][:, None]
            tokens = tokens | (places >= end if self.padded else places == end)
        squares = [(a.square() * tokens[:, None, None].to(a)).sum() for a in maps]
        return {"forget": (torch.stack(squares).sum() / len(tokens)).sqrt()}
