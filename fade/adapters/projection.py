"""How a prompt's embedding leaves a concept behind, token by token and for how long (SAFREE, arXiv 2410.12761)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fade.models import Diffusion

MASK = 0  # the token that stands in a masked one's place


@dataclass(frozen=True)
class Projection:
    """Of a prompt's tokens, those that draw near the concept's subspace are moved out of it, within the prompt's own.

    P_C projects on the span of the [EOT] rows of `concepts`; P_I on that of the prompt's [EOT] rows p_i, each with its
    token i masked. Token i is suspect where masking it, and no other, leaves the prompt far from the concept: where not
    ‖(1 − P_C) p_i‖ < (1 + alpha) times the mean of the others' norms. Its row e becomes (1 − P_C) P_I e.

    share: of the sampler's N steps at most; a prompt is read so in the steps number 0 to round(share·N·σ(slope·(β −
    midpoint))), β = 1 − the mean cosine of its rows, [BOS] to [EOT], with what all of them would become. None: in all.
    """

    concepts: tuple[str, ...]
    alpha: float = 0.01
    share: float | None = 0.2
    slope: float = 70.0
    midpoint: float = 0.55

    def ends(self, model: Diffusion) -> Tensor:
        """(n, D): the [EOT] rows of `concepts`; asked for once for many prompts, the `spans` of what follows."""
        return model.ends(model.token_ids(list(self.concepts)))

    def edited(self, model: Diffusion, prompt: str, rows: Tensor, spans: Tensor) -> Tensor:
        """(L, D): the prompt's rows with suspect tokens moved."""
        masked = masked_ends(model, prompt)
        if not len(masked):  # nothing is asked
            return rows
        first = model.texts[0].first
        suspect = torch.zeros(len(rows), 1, dtype=torch.bool, device=rows.device)
        suspect[first : first + len(masked), 0] = self.suspects(masked, spans)
        return torch.where(suspect, moved(masked, rows, spans), rows)

    def last_step(self, model: Diffusion, prompt: str, rows: Tensor, spans: Tensor, steps: int) -> int:
        """The number, from 0, of the last of `steps` in which the prompt is read as edited."""
        masked = masked_ends(model, prompt)
        if self.share is None or not len(masked):
            return steps - 1
        seen = rows[: model.texts[0].last(prompt) + 2]
        beta = 1 - float(cosine_similarity(moved(masked, seen, spans), seen, dim=-1).mean())
        rise = torch.tensor(self.slope * (beta - self.midpoint), dtype=torch.float64).sigmoid()
        return round(self.share * steps * float(rise))

    def suspects(self, masked: Tensor, spans: Tensor) -> Tensor:
        """(n,) bool, for the [EOT] rows (n, D). One token alone has no others to be measured by, and is suspect."""
        apart = (masked.double() - onto(spans, masked)).norm(dim=1)
        others = (apart.sum() - apart) / (len(apart) - 1)
        return ~(apart < (1 + self.alpha) * others)


def moved(masked: Tensor, rows: Tensor, spans: Tensor) -> Tensor:
    """(L, D): (1 − P_C) P_I of every row (L, D)."""
    own = onto(masked, rows)
    return (own - onto(spans, own)).to(rows)


def onto(spanning: Tensor, rows: Tensor) -> Tensor:
    """(L, D): the rows (L, D) projected on the span of others (n, D), in double precision."""
    basis = spanning.double()
    return rows.double() @ torch.linalg.pinv(basis) @ basis


def masked_ends(model: Diffusion, prompt: str) -> Tensor:
    """(n, D): what the text encoder says at the end of the prompt, each of its n tokens masked in turn."""
    (ids,) = model.token_ids([prompt])
    return model.ends([[*ids[:i], MASK, *ids[i + 1 :]] for i in range(len(ids))]) if ids else torch.empty(0, 0)
