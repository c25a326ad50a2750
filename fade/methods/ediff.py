"""EraseDiff: forgetting as a constraint on retention, a bilevel problem solved to first order (arXiv 2401.05779).

L = L_denoise(retain) + λ (L_f(θ) − L̄_f), L_f = ‖ε_θ(x_t, t, c_f) − sg ε_θ(x_t, t, c_pseudo)‖².
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch
from fade.errors import at_least
from fade.methods import Gradients, Method, Take, dot, relabelled
from fade.models import Diffusion


class EraseDiff(Method):
    """`step` η > 0: the paper's λ = max(0, η − cos(∇L_r, ∇L_f)), anew in every step and times terms.forget, which is
    1 there; 0: λ is terms.forget (released: 0.1).

    passes: K. Every `epoch` steps, before the first of them, K inner passes of `epoch` steps each are taken on L_f
    alone, from θ, and after each θ is put back; between two of them stands an outer pass on L that is thrown away as
    well, for the released code puts θ back inside its loop over K. Optimizer and rate are the run's own, whose moments
    keep all of it: what follows first goes mostly along the forget loss. L̄_f, the inner passes' mean loss, has no
    gradient and is left out. Steps count what stays: the released loop takes 2 K times as many. passes=0 leaves the
    passes out: one level of the two.

    Differs: batches are drawn at random, where the released loops take the same first images of their lists in every
    step; c_pseudo is each caption's surrogate; a single latent serves both captions.
    """

    terms: Mapping[str, float] = {"forget": 0.1, "retain": 1.0}

    def __init__(
        self, step: float = 0.0, passes: int = 0, epoch: int = 15, terms: Mapping[str, NonNegative] | None = None
    ) -> None:
        at_least(0, method__step=step, method__passes=passes)
        at_least(1, method__epoch=epoch)
        self.step, self.passes, self.epoch = step, passes, epoch
        self.combines, self.terms = step > 0, self.weighted(terms)
        self.variant = ("paper" if step > 0 else "as_released") + ("" if passes else ", one level")

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        return relabelled(model, batch)

    def before_step(self, step: int, adapter: Adapter, take: Take) -> None:
        if not self.passes or step % self.epoch:
            return
        before = [parameter.detach().clone() for parameter in adapter.parameters()]
        for k in range(self.passes):
            for _ in range(self.epoch):
                take({"forget": 1.0})
            with torch.no_grad():
                for parameter, value in zip(adapter.parameters(), before, strict=True):
                    parameter.copy_(value)
            for _ in range(self.epoch if k < self.passes - 1 else 0):
                take(None)

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        forget, retain = gradients["forget"], gradients["retain"]
        cosine = dot(forget, retain) / (dot(forget, forget) * dot(retain, retain)).sqrt().clamp(min=1e-20)
        rate = (self.step - cosine).clamp(min=0)
        return [r + rate * f for f, r in zip(forget, retain, strict=True)]
