"""How strongly a change applies, by what is asked for (SPM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fade.models import Diffusion


@dataclass(frozen=True)
class Gate:
    """SPM's facilitated transport (arXiv 2312.16145): how strongly a low-rank change applies to a prompt.

    γ = max over `prompts` of max(cosine of the flattened text embeddings (of the pooled ones, where there are such),
    share of the prompt's tokens that are asked for), to the `power` 1; the released code multiplies γ in twice, which
    is power 2.
    """

    prompts: tuple[str, ...]
    power: float = 1.0

    def strength(self, model: Diffusion, asked: list[str]) -> Tensor:
        """γ (B,) of each prompt that is asked."""
        own, theirs = model.embed(list(self.prompts)).gist(), model.embed(asked).gist()
        cosine = cosine_similarity(theirs[:, None], own[None], dim=-1)
        concepts, prompts = [[set(ids) for ids in model.token_ids(texts)] for texts in (list(self.prompts), asked)]
        overlap = torch.tensor([[len(c & p) / max(1, len(c)) for c in concepts] for p in prompts]).to(cosine)
        return torch.maximum(cosine, overlap).amax(1).clamp(0, 1) ** self.power
