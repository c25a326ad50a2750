"""UCE: a closed form sends the concept's keys and values to the surrogate's (arXiv 2308.14761).

W = (λW_0 + Σ_e s_e (W_0 g_e) c_eᵀ + Σ_p s_p (W_0 c_p) c_pᵀ) (λI + Σ_e s_e c_e c_eᵀ + Σ_p s_p c_p c_pᵀ)⁻¹ = W_0 (I + N)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.adapters.matrix import Matrix
from fade.data.pairs import Pairs
from fade.errors import BadInput, above, at_least
from fade.methods import Method
from fade.models import Diffusion
from fade.models.prompts import Text

Rows = Callable[[Diffusion, list[tuple[str, str]]], tuple[Tensor, Tensor]]


class Uce(Method):
    """c_e, g_e: embeddings of forget captions and of their surrogates'; c_p: of all other captions. No training.

    Where text and image are read in one softmax, keys and values do not see the text itself; what does are the matrices
    through which its rows and its pooled vector come in, and each is edited by its own (adapter=patch), as the authors
    do on FLUX. With the first alone most of the change is missed on random weights; a trained model reads from it most.

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
        above(0, method__ridge=ridge)
        self.tokens, self.erase, self.preserve, self.ridge = tokens, erase, preserve, ridge
        self.variant = f"{tokens} tokens"

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        odd = set(adapter.weights()).difference(*(reading(adapter, key) for key in self.edits(model, adapter)))
        if odd:
            raise BadInput(
                f"{type(self).__name__} edits what reads the text itself, such as the keys and values of "
                f"cross-attention; {min(odd)} is none: narrow adapter.targets"
            )

    def edits(self, model: Diffusion, adapter: Adapter) -> dict[str, Rows]:
        """Expressions over the names of what can be edited, each with the rows that such weights read."""
        vector: dict[str, Rows] = {} if isinstance(adapter, Matrix) else {model.pooled_keys: pooled}
        return {model.text_keys: self.contexts, **vector}

    @torch.no_grad()
    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        weights = adapter.weights()
        for read, n in self.solutions(model, adapter, pairs):
            change(adapter, [weights[name] for name in read], n)

    def solutions(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> Iterator[tuple[list[str], Tensor]]:
        """Names of weights that read the same rows, and the N (D, D) by which each W_0 becomes W_0 (I + N)."""
        weights = adapter.weights()
        for key, rows in self.edits(model, adapter).items():
            if read := reading(adapter, key):
                yield read, self.solved([weights[name] for name in read], *demands(model, pairs, rows))

    def solved(self, weights: list[Tensor], c: Tensor, g: Tensor, p: Tensor) -> Tensor:
        """N (D, D) for these weights, which read c, shall read g, and go on reading p."""
        return solve(c, g, p, self.erase, self.preserve, self.ridge)

    def contexts(self, model: Diffusion, captions: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """(N, D) of each caption and of its surrogate's: one row a caption, or one a token."""
        own, surrogates = [own for own, _ in captions], [other for _, other in captions]
        found, guides = (model.embed(texts).tokens.double() for texts in (own, surrogates))
        c, g = [], []
        for row, (a, b) in enumerate(captions):
            for text in model.texts:
                here, there = self.rows(text, a, b)
                c.append(found[row, here])
                g.append(guides[row, there])
        return torch.cat(c), torch.cat(g)

    def rows(self, text: Text, own: str, other: str) -> tuple[list[int], list[int]]:
        """Which of a caption's rows, and which of its surrogate's stand against them."""
        if self.tokens == "last":
            return [text.last(own)], [text.last(other)]
        there = aligned(text.ids(own), text.ids(other), text.length, text.first)
        return [text.offset + i for i in range(text.length)], [text.offset + i for i in there]


def reading(adapter: Adapter, key: str) -> list[str]:
    """The weights under the adapter that the expression finds, which a LoRA calls by their layers; "" finds none."""
    return [name for name in adapter.weights() if key and re.search(rf"(?:{key})(?:\.weight)?$", name)]


def demands(model: Diffusion, pairs: Pairs, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """c, g (N, D), the rows of the forget captions and of their surrogates', and p (M, D), of all others."""
    (c, g), (p, _) = (rows(model, pairs.captions(side)) for side in ("forget", "retain"))
    return c, g, p


def change(adapter: Adapter, weights: list[Tensor], n: Tensor) -> None:
    """Every one of these weights (out, D) times I + n, n (D, D); a matrix has no others."""
    if isinstance(adapter, Matrix):
        return adapter.multiply(n)
    for weight in weights:
        weight.copy_(weight.double() + weight.double() @ n)
    adapter.project()


def pooled(model: Diffusion, captions: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """(N, P) of each caption and of its surrogate's, one row a caption."""
    own, others = (model.embed(list(texts)).pooled for texts in zip(*captions, strict=True))
    assert own is not None and others is not None
    return own.double(), others.double()


def aligned(own: list[int], other: list[int], length: int, first: int = 1) -> list[int]:
    """For each of a caption's `length` positions the surrogate caption's: from the front up to where the two part, from
    the end of the text where they agree again; between, one by one until the surrogate's words run out. The first token
    stands at `first`."""
    shortest = min(len(own), len(other))
    front = next((i for i in range(shortest) if own[i] != other[i]), shortest)
    back = next((i for i in range(shortest - front) if own[-1 - i] != other[-1 - i]), shortest - front)
    same_again, last = len(own) - back + first, len(other) - back + first - 1
    places = [
        i + len(other) - len(own) if i >= same_again else i if i < front + first else min(i, last)
        for i in range(length)
    ]
    return [min(place, length - 1) for place in places]


def solve(c: Tensor, g: Tensor, p: Tensor, erase: float, preserve: float, ridge: float) -> Tensor:
    """N (D, D) with W = W_0 (I + N), the same for every W_0; c, g (N, D), p (M, D).

    The formula's two sums are λI + Σ s_p c_p c_pᵀ + Σ s_e g_e c_eᵀ and the same with c_e for g_e; N is their difference
    times the second one's inverse.
    """
    gram = ridge * torch.eye(c.shape[1], dtype=c.dtype, device=c.device) + erase * c.T @ c + preserve * p.T @ p
    return torch.linalg.solve(gram, erase * c.T @ (g - c)).T  # gram is symmetric
