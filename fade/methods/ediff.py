"""EraseDiff: forgetting as a constraint on retention, a bilevel problem solved to first order (arXiv 2401.05779).

L = L_denoise(retain) + λ (L_f(θ) − L̄_f), L_f = ‖ε_θ(x_t, t, c_f) − sg ε_θ(x_t, t, c_pseudo)‖².
"""

from __future__ import annotations

from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Batch
from fade.diffusion import Diffusion
from fade.errors import at_least
from fade.methods import Gradients, Method, dot, relabelled


class EraseDiff(Method):
    """`step` η > 0: the paper's λ = max(0, η − cos(∇L_r, ∇L_f)), anew in every step and times weights.forget, which is 1
    there; 0: λ is weights.forget (released: 0.1).

    L̄_f is the mean forget loss of K inner passes whose weights are thrown away. It has no gradient, so neither form of the
    released update depends on it: the inner passes cost time and change nothing, and are left out here.
    """

    terms = ("forget", "retain")

    def __init__(self, step: float = 0.0) -> None:
        at_least(0, method__step=step)
        self.step = step
        self.combines = step > 0
        self.variant = "paper" if step > 0 else "as_released"

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        return relabelled(model, batch)

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        forget, retain = gradients["forget"], gradients["retain"]
        cosine = dot(forget, retain) / (dot(forget, forget) * dot(retain, retain)).sqrt().clamp(min=1e-20)
        rate = (self.step - cosine).clamp(min=0)
        return [r + rate * f for f, r in zip(forget, retain, strict=True)]
