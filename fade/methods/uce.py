"""UCE: a closed form sends the concept's keys and values to the surrogate's (arXiv 2308.14761).

W = (λW_0 + Σ_e s_e (W_0 g_e) c_eᵀ + Σ_p s_p (W_0 c_p) c_pᵀ) (λI + Σ_e s_e c_e c_eᵀ + Σ_p s_p c_p c_pᵀ)⁻¹
"""

from __future__ import annotations

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Pairs
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.methods import Method


class Uce(Method):
    """c_e, g_e: embeddings of forget captions and of their surrogates'; c_p: of all other captions. No training.

    tokens: "last", the last real token of each caption (the released code), or "all", every position aligned (the older
    code, UnlearnCanvas's). Differs: the guide is the conditional surrogate caption instead of one word such as "art".
    """

    kinds = ("patch",)

    def __init__(self, tokens: str = "last", erase: float = 1.0, preserve: float = 1.0, ridge: float = 0.5) -> None:
        if tokens not in ("last", "all"):
            raise BadInput(f"method.tokens is {tokens!r}; choose last (the released code) or all (the older one)")
        if ridge <= 0:
            raise BadInput(f"method.ridge is {ridge}; it must be above 0")
        self.tokens, self.erase, self.preserve, self.ridge = tokens, erase, preserve, ridge
        self.variant = f"{tokens} tokens"

    @torch.no_grad()
    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        forget, retain = pairs.captions("forget"), [own for own, _ in pairs.captions("retain")]
        c, g = self.contexts(model, [own for own, _ in forget]), self.contexts(model, [other for _, other in forget])
        p = self.contexts(model, retain)
        for name, weight in adapter.weights().items():
            if weight.dim() != 2 or weight.shape[1] != c.shape[1]:
                raise BadInput(f"UCE edits the keys and values of cross-attention; {name} {tuple(weight.shape)} is none")
            weight.copy_(solve(weight.double(), c, g, p, self.erase, self.preserve, self.ridge))
        adapter.project()

    def contexts(self, model: Diffusion, captions: list[str]) -> Tensor:
        """(N, D): one row a caption, or one a token."""
        embeddings = model.embed(captions).double()
        if self.tokens == "all":
            return embeddings.flatten(0, 1)
        last = torch.tensor([len(ids) for ids in model.token_ids(captions)], device=embeddings.device)
        return embeddings[torch.arange(len(captions), device=embeddings.device), last]


def solve(w: Tensor, c: Tensor, g: Tensor, p: Tensor, erase: float, preserve: float, ridge: float) -> Tensor:
    """The closed form for one matrix w (out, D); c, g (N, D), p (M, D)."""
    identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    wanted = ridge * w + erase * (w @ g.T) @ c + preserve * (w @ p.T) @ p
    gram = ridge * identity + erase * c.T @ c + preserve * p.T @ p
    return torch.linalg.solve(gram, wanted.T).T  # gram is symmetric
