"""How the timesteps of the forget term, and of the anchor's images, are drawn; the retain term's are always uniform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fade.checked import Count, Portion, Whole
from fade.data.pairs import Batch
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.processes import Process


class Timesteps(ABC):
    """A distribution over the model's times, whole ones of 0..T−1 or a flow's of (0, T].

    `measure` runs once, in stage one; its tensors are kept with the saliency.
    """

    kind: str

    def suits(self, model: Diffusion) -> None:  # noqa: B027 - most distributions suit every model
        """Raises BadInput for a model that has no such timesteps."""

    def measure(self, model: Diffusion, batches: Sequence[Batch]) -> Tensor:
        """What the distribution needs to know of the concept, as one tensor; nothing, by default."""
        return torch.zeros(0)

    @abstractmethod
    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        """Turn uniform draws (B,) of the process into draws of this distribution."""


def _unit(uniform: Tensor, total: int) -> Tensor:
    """Draws (B,) of [0, 1]: whole ones within their 1/total at random, or some timesteps would come twice and others
    never."""
    if uniform.is_floating_point():
        return uniform.double() / total
    return (uniform.double() + torch.rand(uniform.shape, dtype=torch.float64, device=uniform.device)) / total


def _like(times: Tensor, uniform: Tensor) -> Tensor:
    """Whole where the uniform draws are."""
    return times.to(uniform) if uniform.is_floating_point() else times.long()


class Uniform(Timesteps):
    """t ~ U{0..T−1}, as FADE's public code draws it."""

    kind = "uniform"

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        return uniform


class Window(Timesteps):
    """t ~ U{low..high}: LACU's forget term uses [0, 600] of 1000. Raises BadInput for an empty window."""

    kind = "window"

    def __init__(self, low: Whole = 0, high: Count = 600) -> None:
        if not 0 <= low < high:
            raise BadInput(f"timesteps window [{low}, {high}] is empty; give 0 <= low < high")
        self.low, self.high = low, high

    def suits(self, model: Diffusion) -> None:
        if self.high >= model.train_steps:
            raise BadInput(f"timesteps.high is {self.high}; this model's timesteps end at {model.train_steps - 1}")

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        width = self.high - self.low + (not uniform.is_floating_point())
        return self.low + _like(_unit(uniform, total) * width, uniform)


class Targeted(Timesteps):
    """SPARE's timestep targeting, in this project's reading: the authors' formula is not public (arXiv 2602.07058 v2).

    d(t) = E ‖ε_θ(z_t, t, c_f) − ε_θ(z_t, t, c_s)‖² is measured on `points` timesteps while locating, and the forget
    term's t is drawn from p(t) ∝ (1 − ρ) d(t)/Σd + ρ · uniform, piecewise constant between the points.

    d is measured in the model's own parameterisation, the one in which the loss lives, and is not invariant: for one
    z_t d_ε = ᾱ_t d_v, so that a v-model aims at high noise where an ε-model aims lower (neon on the shipped pipeline,
    mean t: 781 in v, 464 in ε). results.json names it (`prediction`); two models are compared only in the same one.
    """

    kind = "targeted"

    def __init__(self, rho: Portion = 0.3, points: Annotated[int, Field(ge=2)] = 20) -> None:
        if not 0 <= rho <= 1:
            raise BadInput(f"timesteps.rho is {rho}; it must lie in [0, 1]")
        if points < 2:
            raise BadInput(f"timesteps.points is {points}; two or more are needed")
        self.rho, self.points = rho, points

    @torch.no_grad()
    def measure(self, model: Diffusion, batches: Sequence[Batch]) -> Tensor:
        """d (points,), averaged over the forget examples of the first two batches."""
        total = model.train_steps
        centres = ((torch.arange(self.points) + 0.5) * total / self.points).long()
        found = torch.zeros(self.points)
        for batch in batches[:2]:
            example = batch["forget"]
            for k, t in enumerate(centres.tolist()):
                steps = torch.full((len(example["latents"]),), t, device=model.device)
                z_t = model.noised(example["latents"], steps, torch.randn_like(example["latents"]))
                apart = model.predict(z_t, steps, example["prompt"]) - model.predict(z_t, steps, example["surrogate"])
                found[k] += apart.square().mean().item()
        return found

    def probabilities(self, measured: Tensor) -> Tensor:
        """p (points,) of each stretch of timesteps."""
        return (1 - self.rho) * measured / measured.sum().clamp(min=1e-20) + self.rho / len(measured)

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        p = self.probabilities(measured.double()).to(uniform.device)
        edges = torch.cat([torch.zeros(1, dtype=p.dtype, device=p.device), p.cumsum(0)])
        u = _unit(uniform, total) * edges[-1]
        k = torch.searchsorted(edges, u, right=True).clamp(1, len(p)) - 1
        times = (k + (u - edges[k]) / p[k]) * total / len(p)
        return _like(times, uniform).clamp(0, total - (not uniform.is_floating_point()))


def with_timesteps(batch: Batch, timesteps: Timesteps, measured: Tensor, process: Process) -> Batch:
    """The batch with t and noise for every example: retain's t uniform, forget's and anchor's from `timesteps`."""
    forget, retain, anchor = batch["forget"], batch["retain"], batch["anchor"]
    n, latents = len(forget["latents"]), torch.cat([forget["latents"], retain["latents"]])
    t, total = process.draw(len(latents), latents.device), process.steps
    noise = torch.randn_like(latents)
    elsewhere = process.draw(len(anchor["latents"]), latents.device)
    anchored = torch.randn_like(anchor["latents"])
    return Batch(
        forget={**forget, "t": timesteps.draw(t[:n], total, measured), "noise": noise[:n]},
        retain={**retain, "t": t[n:], "noise": noise[n:]},
        anchor={**anchor, "t": timesteps.draw(elsewhere, total, measured), "noise": anchored},
    )
