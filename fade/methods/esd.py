"""ESD: the model's own negative guidance becomes its prediction (arXiv 2303.07345).

L = ‖ε_θ(x_t, t, c) − sg[base − η (ε_0(x_t, t, c) − ε_0(x_t, t, ∅))]‖², x_t half-denoised from pure noise under c.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput, at_least
from fade.methods import Method
from fade.models import Diffusion

ETA = {"paper": 1.0, "as_released": 2.0}  # of either variant


class Esd(Method):
    """Three algorithms go by this name; `variant` says which.

    "paper": the base is ε_0(∅) and x_t is sampled by the student (the original code too). "as_released": the base is
    ε_0(c) and x_t is sampled by the frozen model (the authors' newer esd_sd.py). eta: η; None is the variant's, 1 or 2.
    sampling_steps: of DDIM, of which a random number is done. Differs: c are the forget captions of the batch instead
    of one prompt; t is the sampler's own timestep where the paper draws from its bin (as_released does not); images are
    of the model's size, where as_released samples at 1024 px. The surrogate is not used: the concept is pushed away,
    not replaced.
    """

    terms: Mapping[str, float] = {"forget": 1.0}
    draws_t = False

    def __init__(
        self,
        variant: str = "paper",
        eta: float | None = None,
        guidance: float = 3.0,
        sampling_steps: int = 50,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        if variant not in ETA:
            raise BadInput(f"method.variant is {variant!r}; ESD has {' and '.join(ETA)}")
        eta = ETA[variant] if eta is None else eta
        at_least(0, method__eta=eta, method__guidance=guidance)
        at_least(1, method__sampling_steps=sampling_steps)
        self.variant, self.eta, self.guidance, self.sampling_steps = variant, eta, guidance, sampling_steps
        self.terms = self.weighted(terms)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.empty = model.negative()

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        prompt = batch["forget"]["prompt"]
        stop = int(torch.randint(0, self.sampling_steps, (1,)))
        with torch.no_grad():
            with contextlib.nullcontext() if self.variant == "paper" else adapter.off():
                x_t, t = model.denoise_until(prompt, self.sampling_steps, stop, self.guidance, self.empty)
            with adapter.off():
                given, empty = model.predict(x_t, t, prompt), model.predict(x_t, t, self.empty.expand_as(prompt))
        base = empty if self.variant == "paper" else given
        return {"forget": mse_loss(model.predict(x_t, t, prompt), base - self.eta * (given - empty))}
