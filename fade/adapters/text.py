"""A change of the text embedding at inference: no weights, only what is to be suppressed (SEOT) or left (SAFREE)."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fade.adapters import Adapter
from fade.adapters.projection import Projection
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.embedding import Embedding

READ = "encoder_hidden_states"  # what the network is handed as its prompts, by name or in the third place
Decoded = tuple[float, str, Projection | None]  # strength, concept, projection


class TextEdit(Adapter):
    """Shrinks the main singular values of a concept's token embeddings in every prompt that names it (arXiv
    2402.05375), or, where there is a `projection`, moves tokens of any prompt out of the concept's subspace.

    The concept's tokens and the tokens from [EOT] on are stacked, E = U Σ Vᵀ, and σ̂ = σ · e^{−β·scale·σ}; β = 1 is the
    paper's. A pooled vector cannot be shrunk so; it becomes the one of the prompt without the words. Other prompts are
    left alone. `strength` β: the text encoders of this suite have norms of their own. A projection goes β·scale of the
    way.
    """

    kind = "text"
    mergeable = False

    def __init__(self, model: Diffusion, name: str, strength: float) -> None:
        super().__init__(model, name)
        self.strength, self.concept, self.scale = strength, "", 1.0
        self.projection: Projection | None = None
        self._met: tuple[list[str] | None, Tensor, Tensor] = None, torch.empty(0), torch.empty(0)  # see _open
        self._reading = model.network.register_forward_pre_hook(self._open, with_kwargs=True)
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

    @property
    def idle(self) -> bool:
        return self.muted or self.scale == 0 or not (self.concept or self.projection)

    def edit(self, prompts: list[str], embedding: Embedding) -> Embedding:
        """The embedding with the concept suppressed where a prompt names it, or left where a prompt draws near it."""
        if self.idle:
            return embedding
        found = embedding.each(torch.clone)
        spans = self.projection and self.projection.ends(self.model)
        for row, prompt in enumerate(prompts):
            if self.projection is not None and spans is not None:
                away = self.projection.edited(self.model, prompt, found.tokens[row], spans)
                found.tokens[row] = found.tokens[row].lerp(away, self.strength * self.scale)
            elif named := self.model.token_positions(prompt, self.concept):
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

    @torch.no_grad()
    def _open(self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any] | None:
        """Before each pass of the U-Net, while prompts are asked: those whose projection has had its steps are read as
        they are without it."""
        asked = self.model.prompts.asked
        if self.idle or self.projection is None or not asked:
            return None
        times = self.model.pipe.scheduler.timesteps
        if self._met[0] is not asked:  # the prompts are the same in every pass of a batch
            self._met = asked, *self._ends(self.projection, asked, len(times))
        _, back, last = self._met
        t = args[1].reshape(-1, 1)[-len(last) :]
        over = (times.to(t) > t).sum(1) > last.to(t.device)  # as many steps lie before t
        read = (given[READ] if READ in given else args[2]).clone()
        read[-len(last) :] += (over[:, None, None] * back).to(read)
        return (args, given | {READ: read}) if READ in given else ((*args[:2], read, *args[3:]), given)

    def _ends(self, projection: Projection, asked: list[str], steps: int) -> tuple[Tensor, Tensor]:
        """(B, L, D): the way back from what is read to what it is without this edit; (B,): the last edited step."""
        read = self.model.embed(asked).tokens
        self.muted = True
        plain = self.model.embed(asked).tokens
        self.muted = False
        spans = projection.ends(self.model)
        last = [
            projection.last_step(self.model, prompt, rows, spans, steps)
            for prompt, rows in zip(asked, plain, strict=True)
        ]
        return plain - read, torch.tensor(last)

    def detach(self) -> None:
        self._reading.remove()
        self.model.prompts.remove(self)

    def settings(self) -> dict[str, Any]:
        own = {"strength": self.strength, "concept": self.concept}
        if self.projection is None:
            return own
        return own | {"projection": asdict(self.projection) | {"concepts": list(self.projection.concepts)}}

    @classmethod
    def decode(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Decoded:
        known = settings.get("projection")
        projection = known and Projection(**known | {"concepts": tuple(known["concepts"])})
        return float(settings["strength"]), str(settings["concept"]), projection

    @classmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], decoded: Decoded, name: str) -> TextEdit:
        adapter = cls.attach(model, decoded[0], name)
        _, adapter.concept, adapter.projection = decoded
        return adapter


def suppressed(rows: Tensor, strength: float) -> Tensor:
    """rows (K, D) with every singular value σ shrunk to σ·e^{−strength·σ}: the larger, the more."""
    u, s, v = torch.linalg.svd(rows.float(), full_matrices=False)
    return ((u * (s * torch.exp(-strength * s))) @ v).to(rows)
