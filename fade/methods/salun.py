"""SalUn: only the weights that the forget loss leans on most are trained (arXiv 2310.12508).

L = ‖ε_θ(x_t, t, c_f) − sg ε_θ(x_t, t, c_pseudo)‖² + α · L_denoise(retain), gradients and steps confined to the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch, Pairs
from fade.errors import at_least
from fade.methods import Method, relabelled
from fade.models import Diffusion
from fade.saliency import Saliency, sum_of_signed


class SalUn(Method):
    """S = |Σ_batches ∇_θ ‖ε − [(1 + w) ε_θ(x_t, t, c_f) − w ε_θ(x_t, t, ∅)]‖²|, the absolute value after the sum.

    guidance: w. The pseudo caption is the surrogate's, predicted by the live model without gradient. Differs: one
    latent for both captions (the released code draws the autoencoder's posterior twice). The released code without its
    mask is this with sparsity=dense. terms.retain is α.
    """

    terms: Mapping[str, float] = {"forget": 1.0, "retain": 0.5}

    def __init__(self, guidance: float = 7.5, terms: Mapping[str, NonNegative] | None = None) -> None:
        at_least(0, method__guidance=guidance)
        self.guidance, self.terms = guidance, self.weighted(terms)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.empty = model.negative()

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch], sides: bool = False) -> Saliency:
        return sum_of_signed(model, adapter.weights(), batches, self.guidance, self.empty)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        return relabelled(model, batch)
