"""A change of linear layers as the factors of a LoRA.

A change ΔW that is no low-rank matrix leaves exactly by selection, A = I[c] and B = ΔW[:, c], c the columns it touches:
(x Aᵀ) Bᵀ = x[c] ΔW[:, c]ᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PROMPT = "this change depends on the prompt (a gate, or an edited embedding), and no exported weights can carry that"


@dataclass(frozen=True)
class Factors:
    """s·ΔW = alpha / r · B A, with A (r, in), B (out, r)."""

    a: Tensor
    b: Tensor
    alpha: float

    @classmethod
    def select(cls, change: Tensor) -> Factors:
        """Exact, of the rank of the number of columns that the change (out, in) touches."""
        columns = change.any(0).nonzero()[:, 0]
        identity = torch.eye(change.shape[1], dtype=change.dtype, device=change.device)
        return cls(identity[columns], change[:, columns], float(len(columns)))

    @classmethod
    def fit(cls, change: Tensor, rank: int) -> Factors:
        """The nearest change of that rank (truncated singular values)."""
        rank = min(rank, *change.shape)
        u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
        root = s[:rank].sqrt()
        return cls((root[:, None] * v[:rank]).to(change.dtype), (u[:, :rank] * root).to(change.dtype), float(rank))

    def product(self) -> Tensor:
        """s·ΔW (out, in) in double precision."""
        return self.alpha / len(self.a) * (self.b.double() @ self.a.double())
