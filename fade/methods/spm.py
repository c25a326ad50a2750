"""SPM: a rank-1 membrane, trained against negative guidance and anchored on random prompts, gated by the prompt at
inference (arXiv 2312.16145).

L = ‖ε_{θ+Δ}(x_t, c) − [ε_0(x_t, ∅) − η (ε_0(x_t, c) − ε_0(x_t, ∅))]‖² + λ ‖ε_{θ+Δ}(x_t, c̃) − ε_0(x_t, c̃)‖²
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from fade.adapters import Adapter
from fade.adapters.gate import Gate
from fade.adapters.lora import Lora
from fade.checked import NonNegative
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput, at_least
from fade.methods import Method
from fade.models import Diffusion
from fade.models.embedding import Embedding

GATE_POWER = {"paper": 1.0, "as_released": 2.0}  # of either variant


class Spm(Method):
    """x_t is sampled with the membrane on. c̃: `anchors` Gaussian embeddings with the norm of c times U(0.8, 1.2), each
    accepted with probability 1 − cos(c̃, c). gate_power: γ enters once, as in the paper (1), or twice, as in the
    released code (2), which multiplies both factors by it; 0 leaves the gate out; None is the variant's.

    "as_released" is what the code does: γ², sampling stops after 1 to n − 1 of n steps where the paper's 0 leaves pure
    noise, and every second anchor is the empty prompt (its halves for guidance are interleaved, and split as if they
    were not).

    Differs: the gate knows the concept's own words; c are the forget captions; t is the sampler's own, where the code
    takes 999 − ⌊1000 stop / n⌋, a little noisier; proj_in and proj_out are not adapted where they are 1 × 1
    convolutions (Stable Diffusion 1, the canvas). terms.retain is λ.
    """

    terms: Mapping[str, float] = {"forget": 1.0, "retain": 1000.0}
    kinds = ("lora",)
    draws_t = False

    def __init__(
        self,
        variant: str = "paper",
        eta: float = 1.0,
        guidance: float = 3.0,
        sampling_steps: int = 30,
        anchors: int = 4,
        gate_power: float | None = None,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        if variant not in GATE_POWER:
            raise BadInput(f"method.variant is {variant!r}; SPM has {' and '.join(GATE_POWER)}")
        gate_power = GATE_POWER[variant] if gate_power is None else gate_power
        self.variant, self.released = variant, variant == "as_released"
        at_least(0, method__eta=eta, method__guidance=guidance, method__gate_power=gate_power)
        at_least(2 if self.released else 1, method__sampling_steps=sampling_steps, method__anchors=anchors)
        self.eta, self.guidance, self.sampling_steps, self.anchors = eta, guidance, sampling_steps, anchors
        self.gate_power, self.terms = gate_power, self.weighted(terms)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.empty = model.negative()
        assert isinstance(adapter, Lora)
        if self.gate_power:
            adapter.gate = Gate(tuple(pairs.said(request) for request in pairs.requests), self.gate_power)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        prompt = batch["forget"]["prompt"]
        stop = int(torch.randint(int(self.released), self.sampling_steps, (1,)))
        with torch.no_grad():
            x_t, t = model.denoise_until(prompt, self.sampling_steps, stop, self.guidance, self.empty)
            blank = self.anchors // 2 if self.released else 0
            anchors = Embedding.cat([self.empty.expand(blank), anchored(prompt, self.anchors - blank)])
            z_a, t_a = x_t[:1].expand(len(anchors), *x_t.shape[1:]), t[:1].expand(len(anchors))
            with adapter.off():
                given, empty = model.predict(x_t, t, prompt), model.predict(x_t, t, self.empty.expand_as(prompt))
                kept = model.predict(z_a, t_a, anchors)
        forget = mse_loss(model.predict(x_t, t, prompt), empty - self.eta * (given - empty))
        return {"forget": forget, "retain": mse_loss(model.predict(z_a, t_a, anchors), kept)}


def anchored(prompt: Embedding, n: int) -> Embedding:
    """n random embeddings around the first prompt's norm, each part around its own, the nearer to it the more often
    rejected."""
    target = prompt[:1]
    found: list[Embedding] = []
    while len(found) < n:
        noises = {name: torch.randn_like(part) for name, part in target.parts() if name != "mask"}
        factor = 0.8 + 0.4 * torch.rand(1, device=target.device)
        drawn = {name: noise / noise.norm() * getattr(target, name).norm() * factor for name, noise in noises.items()}
        candidate = Embedding(**drawn, mask=target.mask)
        if torch.rand(1).item() < 1 - cosine_similarity(candidate.rows(), target.rows()).item():
            found.append(candidate)
    return Embedding.cat(found)
