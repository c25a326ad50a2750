"""Diff-QuickFix: a closed form on the text encoder's first self-attention (arXiv 2310.13730).

W = (λW_0 + Σ v kᵀ) (λI + Σ k kᵀ)⁻¹,  v = W_0 k',  W_0 the layer's output projection
k, k': what it reads where a caption and its surrogate's stop differing, the last token of the subject, and behind that
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from fade.adapters import Adapter
from fade.data.pairs import Pairs
from fade.errors import BadInput, above, at_least
from fade.methods import Method, check_alone
from fade.methods.uce import change, solve
from fade.models import Diffusion
from fade.models.prompts import Text


class DiffQuickFix(Method):
    """ridge: λ. ends: whether the rows behind the subject's last token ([EOT] and the padding, `use_eos` of the code)
    count too, as released; without them it is the paper's one token a caption. preserve: the weight of what is kept,
    every row of the other captions read as before; 0 as published, where nothing is. No training.

    Differs: captions and surrogates are this suite's, where the code has the bare name and three templates of it ("A
    photo of ..."), and one surrogate ("painting"), so that what stands behind a subject there is [EOT] alone. The code
    takes v with the layer's bias in it, which is then added a second time; here v is without.
    """

    kinds = ("patch",)
    draws_t = False
    part = "text"

    def __init__(self, ridge: float = 0.01, ends: bool = True, preserve: float = 0.0) -> None:
        above(0, method__ridge=ridge)
        at_least(0, method__preserve=preserve)
        self.ridge, self.ends, self.preserve = ridge, ends, preserve
        self.variant = "" if ends else "last token alone"

    def check_family(self, family: type[Diffusion]) -> None:
        check_alone(family)

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        odd = [name for name in adapter.weights() if not re.search(r"\.self_attn\.out_proj\.weight$", name)]
        if odd or len(adapter.weights()) != 1:
            raise BadInput(
                "DiffQuickFix edits one output projection of the text encoder's self-attention, and adapter.targets "
                f"finds {', '.join(odd[:1] or list(adapter.weights())[:2])}: name one layer's self_attn.out_proj.weight"
            )

    @torch.no_grad()
    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        ((name, weight),) = adapter.weights().items()
        layer, captions = model.get_submodule(name.removesuffix(".weight")), pairs.captions("forget")
        own, other = (rows_read(model, layer, list(texts)) for texts in zip(*captions, strict=True))
        places = [self.places(model.texts[0], *texts) for texts in captions]
        c = torch.cat([row[here] for row, (here, _) in zip(own, places, strict=True)])
        g = torch.cat([row[there] for row, (_, there) in zip(other, places, strict=True)])
        p = c[:0]
        if self.preserve:
            p = rows_read(model, layer, [text for text, _ in pairs.captions("retain")]).flatten(0, 1)
        change(adapter, [weight], solve(c, g, p, 1.0, self.preserve, self.ridge))

    def places(self, text: Text, own: str, other: str) -> tuple[list[int], list[int]]:
        """Rows of a caption from its subject's last token on, and those of its surrogate's that stand against them."""
        here, there = (text.offset + text.first - 1 + end for end in subject_ends(text.ids(own), text.ids(other)))
        behind = text.offset + text.length - here if self.ends else 1
        last = text.offset + text.length - 1
        return [here + i for i in range(behind)], [min(there + i, last) for i in range(behind)]


def subject_ends(own: list[int], other: list[int]) -> tuple[int, int]:
    """How many tokens of either caption there are up to where they differ last: the rest is the same in both."""
    shortest = min(len(own), len(other))
    same = next((i for i in range(shortest) if own[-1 - i] != other[-1 - i]), shortest)
    return len(own) - same, len(other) - same


def rows_read(model: Diffusion, layer: nn.Module, texts: list[str]) -> Tensor:
    """(N, L, D) in double precision: what a layer of the text encoder is given for these captions."""
    found: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0].double())

    handle = layer.register_forward_pre_hook(keep)
    try:
        model.encoded(texts)
    finally:
        handle.remove()
    return torch.cat(found)
