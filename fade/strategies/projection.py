"""The gradient of keys and values is projected off the embeddings of what is kept (CUIG, arXiv 2511.07970).

G ← G P, P = I − C (CᵀC + λI)⁻¹ Cᵀ, the columns of C the embeddings of the kept captions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Pairs
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.methods import Gradients, Method
from fade.strategies import Around, Strategy, trained


class Projection(Strategy):
    """ridge λ: relative to the mean squared norm of the columns, so that it means the same for every text encoder."""

    def __init__(self, ridge: float = 0.01) -> None:
        if ridge <= 0:
            raise BadInput(f"strategy.ridge is {ridge}; it must be above 0")
        self.ridge = ridge

    def check(self, method: Method) -> None:
        trained(method, "projection")

    def method(self, method: Method) -> Method:
        return Projected(method, self.ridge)


class Projected(Around):
    """C has one column a caption, its last token's embedding: all tokens together would span everything there is."""

    def __init__(self, inner: Method, ridge: float) -> None:
        super().__init__(inner)
        self.ridge, self.combines = ridge, True

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().prepare(model, adapter, pairs)
        captions = [own for own, _ in pairs.captions("retain")]
        last = torch.tensor([len(ids) for ids in model.token_ids(captions)])
        self.off = projector(model.embed(captions)[torch.arange(len(captions)), last].T, self.ridge)
        self.names = adapter.names()
        if not any(self._reads_text(name) for name in self.names):
            raise BadInput("strategy projection acts on the keys and values of cross-attention, and this adapter changes none")

    def _reads_text(self, name: str) -> bool:
        """Whether a parameter's columns are the text embedding's: keys and values, and the A of a low-rank change of them."""
        return "attn2.to_k" in name or "attn2.to_v" in name

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        found = super().combine(gradients)
        return [g @ self.off.to(g) if self._reads_text(name) and g.dim() == 2 and g.shape[1] == len(self.off) else g
                for name, g in zip(self.names, found, strict=True)]  # fmt: skip


def projector(columns: Tensor, ridge: float) -> Tensor:
    """P (D, D) of columns (D, N)."""
    c = columns.double()
    gram = c.T @ c
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (torch.eye(len(c), dtype=c.dtype, device=c.device) - c @ torch.linalg.solve(gram, c.T)).to(columns)
