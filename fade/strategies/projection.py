"""Keys and values change only where what is kept does not reach (CUIG, arXiv 2511.07970).

ΔW C = 0: G ← G P before and ΔW ← ΔW P after every step, P = I − C (CᵀC + λI)⁻¹ Cᵀ, the columns of C the concepts of the
kept captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fade.adapters import Adapter, Masks
from fade.data.pairs import Pairs
from fade.data.prompts import words
from fade.errors import BadInput
from fade.methods import Gradients, Method
from fade.models import Diffusion
from fade.sparsity import Dense, Sparsity
from fade.strategies import Around, Strategy, trained


class Projection(Strategy):
    """ridge λ: relative to the mean squared norm of the columns, so that it means the same for every text encoder.
    Whole layers train, whatever sparsity the method came with: the few columns that a mask leaves are fewer than those
    of C.
    """

    def __init__(self, ridge: float = 1e-6) -> None:
        if ridge <= 0:
            raise BadInput(f"strategy.ridge is {ridge}; it must be above 0")
        self.ridge = ridge

    def check(self, method: Method) -> None:
        trained(method, "projection")

    def method(self, method: Method) -> Method:
        return Projected(method, self.ridge)

    def sparsity(self, sparsity: Sparsity, used: Sequence[Masks]) -> Sparsity:
        return sparsity if sparsity.kind in ("dense", "module") else Dense()


class Projected(Around):
    """Differs from CUIG: it projects the gradient alone, and Adam and clipping lead out of the subspace again; of a
    low-rank change it is A that is projected, and ΔW = s B (A P). Its floor of 1e-4 under λ is left out, its prompts
    are written by a language model and ours are the kept captions.
    """

    def __init__(self, inner: Method, ridge: float) -> None:
        super().__init__(inner)
        self.ridge, self.combines = ridge, True

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().suits(model, adapter, pairs)
        if not reading_text(adapter):
            raise BadInput(
                "strategy projection acts on the keys and values of cross-attention, and this adapter changes none"
            )
        kept = columns(model, pairs)
        if kept.shape[1] >= len(kept):
            raise BadInput(
                f"strategy projection: what is kept has {kept.shape[1]} directions and a caption's embedding "
                f"{len(kept)}, so keys and values could learn nothing; use another strategy"
            )

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().prepare(model, adapter, pairs)
        self.off = projector(columns(model, pairs), self.ridge)
        reading = reading_text(adapter)
        self.reading = [name in reading or name.removesuffix(".A") in reading for name in adapter.names()]

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().edit(model, adapter, pairs)
        self.stepped(adapter)

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        found = super().combine(gradients)
        return [g @ self.off.to(g) if reads else g for reads, g in zip(self.reading, found, strict=True)]

    def stepped(self, adapter: Adapter) -> None:
        super().stepped(adapter)
        for name in reading_text(adapter):
            adapter.turn(name, self.off)


def reading_text(adapter: Adapter) -> list[str]:
    """The weights whose columns are the text embedding's: the keys and values of cross-attention."""
    return [
        name
        for name, weight in adapter.weights().items()
        if re.search(adapter.model.text_keys, name) and weight.dim() == 2
    ]


def columns(model: Diffusion, pairs: Pairs, alike: float = 0.95) -> Tensor:
    """C (D, N): for every concept that a kept caption names, the mean embedding of its tokens there; of those whose
    cosine is `alike` or more only the first. Raises BadInput where the captions name none."""
    found: list[Tensor] = []
    for cell in (cell for cell in pairs.dataset.cells() if pairs.side(cell) == "retain"):
        text = pairs.caption(cell)
        rows = model.embed([text]).tokens[0]
        named = [model.token_positions(text, pairs.dataset.says.get(label, words(label))) for label in cell.values()]
        found += [rows[positions].mean(0) for positions in named if positions]
    if not found:
        raise BadInput(
            "strategy projection: the kept captions name none of their concepts, so there is nothing to protect"
        )
    kept = found[:1]
    for column in found[1:]:
        if float((normalize(torch.stack(kept), dim=-1) @ normalize(column, dim=-1)).max()) < alike:
            kept.append(column)
    return torch.stack(kept, 1)


def projector(columns: Tensor, ridge: float) -> Tensor:
    """P (D, D) of columns (D, N)."""
    c = columns.double()
    gram = c.T @ c
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (torch.eye(len(c), dtype=c.dtype, device=c.device) - c @ torch.linalg.solve(gram, c.T)).to(columns)
