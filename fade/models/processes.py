"""The two ways in which noise is mixed into latents, written out: a sampler's own `add_noise` is not asked.

It is another formula for some samplers (Euler's gives z_0 + σ ε, by √(1 + σ²) too large for the network), takes only
the times of the present schedule for others, and does not exist for a third kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Generator, Tensor

from fade.errors import BadInput

Said = Literal["own", "eps", "v", "x0"]  # what of z_t = a z_0 + b ε is told: as the network tells it, ε, v, or z_0


class Process(ABC):
    """config: of the pipeline's scheduler. steps: T, the largest time. prediction: what the network is trained to say.

    Times t (B,) go from 0, no noise, to T; `whole`: whether they are integers below T.
    """

    prediction: str
    whole: bool

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config, self.steps = config, int(config["num_train_timesteps"])

    @abstractmethod
    def draw(self, n: int, device: torch.device | str = "cpu", generator: Generator | None = None) -> Tensor:
        """n uniform times."""

    @abstractmethod
    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t (B, C, h, w)."""

    @abstractmethod
    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network is trained to give for z_t (B, C, h, w)."""

    def squared(self, t: float, said: Said) -> float:
        """How much larger ‖Δ‖² of two predictions for one z_t is when told otherwise than by the network itself: of
        either process Δε = a Δv and Δz_0 = −b Δv."""
        one, zero, at = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1), torch.tensor([t])
        a, b = float(self.noised(one, at, zero)), float(self.noised(zero, at, one))
        of_v = {"v": 1.0, "eps": a**2, "x0": b**2}
        own = "eps" if self.prediction not in ("v_prediction", "flow") else "v"
        return of_v[own if said == "own" else said] / of_v[own]

    @abstractmethod
    def sampler(self, steps: int, device: torch.device, **given: Any) -> Any:
        """A first-order, deterministic sampler, its times set. given: instead of `steps`, to its `set_timesteps`."""

    @abstractmethod
    def adopted(self, kind: Any) -> Any:
        """A sampler of that class with the pipeline's settings. Raises BadInput for one of the other process."""


def flows(kind: Any) -> bool:
    """Whether a class of schedulers samples flows and nothing else."""
    return "FlowMatch" in kind.__name__


def flowing(scheduler: Any) -> bool:
    """Whether a scheduler, as it is set, samples flows."""
    return flows(type(scheduler)) or bool(scheduler.config.get("use_flow_sigmas"))


class Diffusing(Process):
    """z_t = √ᾱ_t z_0 + √(1−ᾱ_t) ε, t in 0..T−1 (DDPM, arXiv 2006.11239); ε, or v = √ᾱ_t ε − √(1−ᾱ_t) z_0 (arXiv
    2202.00512). Latents have no range: no sampler clips them, as DDIM does where no setting says otherwise."""

    whole = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({"clip_sample": False, **config})
        ddpm = DDPMScheduler.from_config(config)
        self.prediction, self.alphas = str(ddpm.config.prediction_type), ddpm.alphas_cumprod

    def draw(self, n: int, device: torch.device | str = "cpu", generator: Generator | None = None) -> Tensor:
        return torch.randint(0, self.steps, (n,), device=device, generator=generator)

    def roots(self, like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1−ᾱ_t), each (B, 1, 1, 1)."""
        alphas = self.alphas.to(like.device)[t][:, None, None, None]
        return (alphas**0.5).to(like.dtype), ((1 - alphas) ** 0.5).to(like.dtype)

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        kept, mixed = self.roots(latents, t)
        return kept * latents + mixed * noise

    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        if self.prediction != "v_prediction":
            return noise
        kept, mixed = self.roots(latents, t)
        return kept * noise - mixed * latents

    def sampler(self, steps: int, device: torch.device, **given: Any) -> DDIMScheduler:
        made = DDIMScheduler.from_config(self.config)
        made.set_timesteps(**(given or {"num_inference_steps": steps}), device=device)
        return made

    def adopted(self, kind: Any) -> Any:
        if flows(kind):
            raise BadInput(f"{kind.__name__} samples flows, and this model diffuses; choose one such as DDIMScheduler")
        return kind.from_config(self.config)


class Flowing(Process):
    """z_t = (1 − σ) z_0 + σ ε with σ = t/T in (0, 1], and v = ε − z_0 (rectified flow, arXiv 2209.03003, 2403.03206).

    For one z_t, Δv = Δε/(1 − σ) = −Δz_0/σ: distilling in v weighs the loss of ε by 1/(1 − σ)².
    """

    whole, prediction = False, "flow"

    def draw(self, n: int, device: torch.device | str = "cpu", generator: Generator | None = None) -> Tensor:
        return self.steps * (1 - torch.rand(n, device=device, generator=generator))

    def sigma(self, t: Tensor, like: Tensor) -> Tensor:
        return (t / self.steps).to(like)[:, None, None, None]

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        sigma = self.sigma(t, latents)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return noise - latents

    @property
    def shift(self) -> float:
        """s of σ = s u / (1 + (s − 1) u), under either name that schedulers give it."""
        return float(self.config.get("flow_shift") or self.config.get("shift") or 1.0)

    def sampler(self, steps: int, device: torch.device, **given: Any) -> FlowMatchEulerDiscreteScheduler:
        made = FlowMatchEulerDiscreteScheduler.from_config(self.config, shift=self.shift)
        made.set_timesteps(**(given or {"num_inference_steps": steps}), device=device)
        return made

    def adopted(self, kind: Any) -> Any:
        if flows(kind):
            return kind.from_config(self.config, shift=self.shift)
        if "use_flow_sigmas" not in signature(kind.__init__).parameters:
            raise BadInput(
                f"{kind.__name__} samples diffusions, and this model flows; choose one such as "
                "FlowMatchEulerDiscreteScheduler"
            )
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": self.shift}
        return kind.from_config(self.config, **flow)
