"""Concept Ablation: on images of an anchor, the target's caption is taught to give what the anchor's gives (arXiv
2303.13516).

L = ‖ε_θ(x_t, t, c_target) − sg ε(x_t, t, c_anchor)‖² + λ_p ‖ε_θ(x_t, t, c_anchor) − ε‖², x_t from the anchor's images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch
from fade.errors import BadInput
from fade.methods import Method, denoising, noised
from fade.models import Diffusion


class ConceptAblation(Method):
    """`variant` "paper": the anchor's prediction is the frozen model's; "as_released": the live model's, without
    gradient (the diffusers port). prior: whether there is the term of λ_p (--with_prior_preservation, which the
    released commands give for overlapping names and nudity alone).

    Differs: the anchor's images are the dataset's, not generated, and are not rescaled at random; the prior term shares
    x_t with the forget term, where the code gives it a second half of the batch with images, t and noise of its own.
    """

    terms: Mapping[str, float] = {"forget": 1.0, "prior": 1.0}

    def __init__(
        self, variant: str = "paper", prior: bool = True, terms: Mapping[str, NonNegative] | None = None
    ) -> None:
        if variant not in ("paper", "as_released"):
            raise BadInput(f"method.variant is {variant!r}; Concept Ablation has paper and as_released")
        self.variant, self.prior = variant, prior
        self.terms = self.weighted(terms)
        if not prior:
            del self.terms["prior"]

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        anchor = batch["anchor"]
        x_t, t = noised(model, anchor), anchor["t"]
        with torch.no_grad(), adapter.off() if self.variant == "paper" else contextlib.nullcontext():
            wanted = model.predict(x_t, t, anchor["surrogate"])
        forget = mse_loss(model.predict(x_t, t, anchor["prompt"]), wanted)
        return {"forget": forget} | ({"prior": denoising(model, anchor, anchor["surrogate"])} if self.prior else {})
