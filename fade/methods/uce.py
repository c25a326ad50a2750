"""UCE: a closed form sends the concept's keys and values to the surrogate's (arXiv 2308.14761).

W = (λW_0 + Σ_e s_e (W_0 g_e) c_eᵀ + Σ_p s_p (W_0 c_p) c_pᵀ) (λI + Σ_e s_e c_e c_eᵀ + Σ_p s_p c_p c_pᵀ)⁻¹ = W_0 (I + N)
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.adapters.matrix import Matrix
from fade.data.pairs import Pairs
from fade.errors import BadInput, at_least
from fade.methods import Method
from fade.models import Diffusion


class Uce(Method):
    """c_e, g_e: embeddings of forget captions and of their surrogates'; c_p: of all other captions. No training.

    tokens: "last", the last real token of each caption (the released code), or "all", every position aligned (the older
    code, UnlearnCanvas's, but that aligns what stands from the last real token on).

    Differs: what is edited are the forget captions, one a cell, where the code edits the bare name and, in
    UnlearnCanvas with --add_prompts, five templates of it ("art by ..."); the guide is each caption's surrogate instead
    of one text for all ("art"; UnlearnCanvas "An image in Photo style"); the empty prompt is not among what is
    preserved.
    """

    kinds = ("matrix", "patch")
    draws_t = False

    def __init__(self, tokens: str = "last", erase: float = 1.0, preserve: float = 1.0, ridge: float = 0.5) -> None:
        if tokens not in ("last", "all"):
            raise BadInput(f"method.tokens is {tokens!r}; choose last (the released code) or all (the older one)")
        at_least(0, method__erase=erase, method__preserve=preserve)
        if not ridge > 0:
            raise BadInput(f"method.ridge is {ridge}; it must be above 0")
        self.tokens, self.erase, self.preserve, self.ridge = tokens, erase, preserve, ridge
        self.variant = f"{tokens} tokens"

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        odd = [name for name in adapter.weights() if not re.search(rf"{model.text_keys}\.weight$", name)]
        if odd:
            raise BadInput(
                f"UCE edits the keys and values of cross-attention; {odd[0]} is none: narrow adapter.targets"
            )

    @torch.no_grad()
    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        forget, retain = pairs.captions("forget"), [(own, own) for own, _ in pairs.captions("retain")]
        (c, g), (p, _) = self.contexts(model, forget), self.contexts(model, retain)
        n = solve(c, g, p, self.erase, self.preserve, self.ridge)
        if isinstance(adapter, Matrix):
            return adapter.multiply(n)
        for weight in adapter.weights().values():
            weight.copy_(weight.double() + weight.double() @ n)
        adapter.project()

    def contexts(self, model: Diffusion, captions: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """(N, D) of each caption and of its surrogate's: one row a caption, or one a token."""
        own, surrogates = [own for own, _ in captions], [other for _, other in captions]
        found, guides = model.embed(own).double(), model.embed(surrogates).double()
        c, g = [], []
        for row, a, b in zip(range(len(captions)), model.token_ids(own), model.token_ids(surrogates), strict=True):
            length = found.shape[1]
            here, there = (list(range(length)), aligned(a, b, length)) if self.tokens == "all" else ([len(a)], [len(b)])
            c.append(found[row, here])
            g.append(guides[row, there])
        return torch.cat(c), torch.cat(g)


def aligned(own: list[int], other: list[int], length: int) -> list[int]:
    """For each of a caption's `length` positions the surrogate caption's: from the front up to where the two part, from
    the end of the text where they agree again; between, one by one until the surrogate's words run out."""
    shortest = min(len(own), len(other))
    front = next((i for i in range(shortest) if own[i] != other[i]), shortest)
    back = next((i for i in range(shortest - front) if own[-1 - i] != other[-1 - i]), shortest - front)
    same_again, last = len(own) - back + 1, len(other) - back  # positions: the first token is at 1
    places = [
        i + len(other) - len(own) if i >= same_again else i if i <= front else min(i, last) for i in range(length)
    ]
    return [min(place, length - 1) for place in places]


def solve(c: Tensor, g: Tensor, p: Tensor, erase: float, preserve: float, ridge: float) -> Tensor:
    """N (D, D) with W = W_0 (I + N), the same for every W_0; c, g (N, D), p (M, D).

    The formula's two sums are λI + Σ s_p c_p c_pᵀ + Σ s_e g_e c_eᵀ and the same with c_e for g_e; N is their difference
    times the second one's inverse.
    """
    gram = ridge * torch.eye(c.shape[1], dtype=c.dtype, device=c.device) + erase * c.T @ c + preserve * p.T @ p
    return torch.linalg.solve(gram, erase * c.T @ (g - c)).T  # gram is symmetric
