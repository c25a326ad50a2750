"""SPM: a rank-1 membrane, trained against negative guidance and anchored on random prompts, gated by the prompt at
inference (arXiv 2312.16145).

L = ‖ε_{θ+Δ}(x_t, c) − [ε_0(x_t, ∅) − η (ε_0(x_t, c) − ε_0(x_t, ∅))]‖² + λ ‖ε_{θ+Δ}(x_t, c̃) − ε_0(x_t, c̃)‖²
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from fade.adapters import Adapter
from fade.data.pairs import Batch, Pairs
from fade.diffusion import Diffusion
from fade.errors import at_least
from fade.lora import Gate, Lora
from fade.methods import Method


class Spm(Method):
    """x_t is sampled with the membrane on. c̃: `anchors` Gaussian embeddings with the norm of c times U(0.8, 1.2), each
    accepted with probability 1 − cos(c̃, c). gate_power: γ enters once, as in the paper (1), or twice, as in the released
    code (2); 0 leaves the gate out.

    Differs: the gate knows the concept's own words; c are the forget captions; proj_in and proj_out are not adapted where
    they are 1 × 1 convolutions (Stable Diffusion 1, MiniCanvas). weights.retain is λ.
    """

    terms = ("forget", "retain")
    kinds = ("lora",)
    draws_t = False

    def __init__(
        self, eta: float = 1.0, guidance: float = 3.0, sampling_steps: int = 30, anchors: int = 4, gate_power: float = 1.0
    ) -> None:
        at_least(0, method__eta=eta, method__guidance=guidance, method__gate_power=gate_power)
        at_least(1, method__sampling_steps=sampling_steps, method__anchors=anchors)
        self.eta, self.guidance, self.sampling_steps, self.anchors = eta, guidance, sampling_steps, anchors
        self.gate_power = gate_power
        self.variant = {1.0: "paper", 2.0: "as_released"}.get(gate_power, f"gate^{gate_power:g}")

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.empty = model.embed([""])
        assert isinstance(adapter, Lora)
        if self.gate_power:
            adapter.gate = Gate(tuple(pairs.said(request) for request in pairs.requests), self.gate_power)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        prompt = batch["forget"]["prompt"]
        stop = int(torch.randint(0, self.sampling_steps, (1,)))
        with torch.no_grad():
            x_t, t = model.partly(prompt, self.sampling_steps, stop, self.guidance, self.empty)
            anchors = anchored(prompt, self.anchors)
            z_a, t_a = x_t[:1].expand(len(anchors), *x_t.shape[1:]), t[:1].expand(len(anchors))
            with adapter.off():
                given, empty = model.predict(x_t, t, prompt), model.predict(x_t, t, self.empty.expand_as(prompt))
                kept = model.predict(z_a, t_a, anchors)
        forget = mse_loss(model.predict(x_t, t, prompt), empty - self.eta * (given - empty))
        return {"forget": forget, "retain": mse_loss(model.predict(z_a, t_a, anchors), kept)}


def anchored(prompt: Tensor, n: int) -> Tensor:
    """n random embeddings (n, L, D) around the first prompt's norm, the nearer to it the more often rejected."""
    target = prompt[:1]
    found: list[Tensor] = []
    while len(found) < n:
        noise = torch.randn_like(target)
        drawn = noise / noise.norm() * target.norm() * (0.8 + 0.4 * torch.rand(1, device=target.device))
        if torch.rand(1).item() < 1 - cosine_similarity(drawn.flatten(1), target.flatten(1)).item():
            found.append(drawn)
    return torch.cat(found)
