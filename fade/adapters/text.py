"""A change of the text embedding at inference: no weights, only what is to be suppressed (SEOT)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.embedding import Embedding


class TextEdit(Adapter):
    """Shrinks the main singular values of a concept's token embeddings in every prompt that names it (arXiv
    2402.05375).

    The concept's tokens and the tokens from [EOT] on are stacked, E = U Σ Vᵀ, and σ̂ = σ · e^{−β·scale·σ}; β = 1 is the
    paper's. A pooled vector cannot be shrunk so; it becomes the one of the prompt without the words. Other prompts are
    left alone. `strength` β: the text encoders of this suite have norms of their own.
    """

    kind = "text"
    mergeable = False

    def __init__(self, model: Diffusion, name: str, strength: float) -> None:
        super().__init__(model, name)
        self.strength, self.concept, self.scale, self.muted = strength, "", 1.0, False
        model.prompts.add(self, self.edit)

    @classmethod
    def attach(cls, model: Diffusion, strength: float = 1.0, name: str = "fade") -> TextEdit:
        if not 0 < strength < float("inf"):
            raise BadInput(f"adapter.strength is {strength}; it must be a number above 0")
        if not model.causal:
            raise BadInput(
                f"a text edit shrinks a concept's own rows, and the T5 of {model.title} spreads a word over "
                "all of them; use another method"
            )
        return cls(model, name, strength)

    def edit(self, prompts: list[str], embedding: Embedding) -> Embedding:
        """The embedding with the concept suppressed where a prompt names it."""
        if self.muted or not self.concept or self.scale == 0:
            return embedding
        found = embedding.each(torch.clone)
        for row, prompt in enumerate(prompts):
            named = self.model.token_positions(prompt, self.concept)
            if named:
                end, last = self.model.texts[0].last(prompt) + 1, found.tokens.shape[1] - 1
                chosen = [*named, *range(min(end, last), last + 1)]
                found.tokens[row, chosen] = suppressed(found.tokens[row, chosen], self.strength * self.scale)
                if found.pooled is not None:
                    found.pooled[row] = self.without(prompt)
        return found

    def without(self, prompt: str) -> Tensor:
        """(P,) the pooled vector of a prompt without the concept's words."""
        words = re.compile(rf"(?<!\w){re.escape(self.concept)}(?!\w)", re.IGNORECASE)
        pooled = self.model.encoded([words.sub("", prompt)]).pooled
        assert pooled is not None
        return pooled[0]

    def _mute(self, muted: bool) -> None:
        self.muted = muted

    def detach(self) -> None:
        self.model.prompts.remove(self)

    def settings(self) -> dict[str, Any]:
        return {"strength": self.strength, "concept": self.concept}

    @classmethod
    def decode(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[float, str]:
        return float(settings["strength"]), str(settings["concept"])

    @classmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], decoded: tuple[float, str], name: str) -> TextEdit:
        strength, concept = decoded
        adapter = cls.attach(model, strength, name)
        adapter.concept = concept
        return adapter


def suppressed(rows: Tensor, strength: float) -> Tensor:
    """rows (K, D) with every singular value σ shrunk to σ·e^{−strength·σ}: the larger, the more."""
    u, s, v = torch.linalg.svd(rows.float(), full_matrices=False)
    return ((u * (s * torch.exp(-strength * s))) @ v).to(rows)
