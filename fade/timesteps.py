"""How the timesteps of the forget term, and of the anchor's images, are drawn; the retain term's are always uniform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain, count, islice
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fade.checked import Count, Portion, Share, Whole
from fade.data.pairs import Batch
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.processes import Process, Said
from fade.switching import rise, stretch, switched, travelled


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


def _within(uniform: Tensor, total: int, low: float | Tensor, high: float | Tensor, outside: bool = False) -> Tensor:
    """Uniform within [low, high), or within what of the times lies outside of it."""
    width = high - low
    x = _unit(uniform, total) * (total - width if outside else width)
    return _like(torch.where(x < low, x, x + width) if outside else low + x, uniform)


def _piecewise(uniform: Tensor, p: Tensor, total: int) -> Tensor:
    """Draws of stretches of equal length, from t = 0 on, with probabilities p (K,), uniform within each."""
    edges = torch.cat([torch.zeros(1, dtype=p.dtype, device=p.device), p.cumsum(0)])
    u = _unit(uniform, total) * edges[-1]
    k = torch.searchsorted(edges, u, right=True).clamp(1, len(p)) - 1
    times = (k + (u - edges[k]) / p[k]) * total / len(p)
    return _like(times, uniform).clamp(0, total - (not uniform.is_floating_point()))


class Uniform(Timesteps):
    """t ~ U{0..T−1}, as FADE's public code draws it."""

    kind = "uniform"

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        return uniform


class Window(Timesteps):
    """t ~ U{low..high}: LACU's forget term uses [0, 600] of 1000; TRCE's, ANT's: conf/timesteps. outside: all other
    times instead. Raises BadInput for an empty window."""

    kind = "window"

    def __init__(self, low: Whole = 0, high: Count = 600, outside: bool = False) -> None:
        if not 0 <= low < high:
            raise BadInput(f"timesteps window [{low}, {high}] is empty; give 0 <= low < high")
        self.low, self.high, self.outside = low, high, outside
        self.kind = "window, outside" if outside else "window"

    def suits(self, model: Diffusion) -> None:
        if self.high >= model.train_steps:
            raise BadInput(f"timesteps.high is {self.high}; this model's timesteps end at {model.train_steps - 1}")
        if self.outside and (self.low, self.high) == (0, model.train_steps - 1):
            raise BadInput("timesteps.outside=true leaves nothing: the window holds all of this model's timesteps")

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        end = self.high + (not uniform.is_floating_point())
        return _within(uniform, total, self.low, end, self.outside)


class KeySteps(Timesteps):
    """KSCU's Key Step Table (arXiv 2507.06526): of `steps` steps of the sampler, S..steps−1 from the noisiest on, S
    beginning at `start` and one later after every `loops` passes, but below 0.9 of the steps; `entries` in all.

    Drawn is how often each step stands in the table. Differs: its order, one sampling after another with S moving on as
    training does, is no distribution of t and is left out; t is uniform within a step's part of 0..T−1, where the code
    takes the sampler's own t.
    """

    kind = "key_steps"

    def __init__(self, start: Whole = 14, steps: Count = 50, loops: Count = 8, entries: Count = 750) -> None:
        self.last = -(-9 * steps // 10) - 1
        if start > self.last:
            raise BadInput(
                f"timesteps.start is {start}; of {steps} steps the table begins at {self.last} at the latest"
            )
        self.start, self.steps, self.loops, self.entries = start, steps, loops, entries

    def table(self) -> Tensor:
        """(steps,): how often each step stands in it, the noisiest first."""
        passes = (range(min(self.start + k // self.loops, self.last), self.steps) for k in count())
        entries = list(islice(chain.from_iterable(passes), self.entries))
        return torch.bincount(torch.tensor(entries), minlength=self.steps)

    def measure(self, model: Diffusion, batches: Sequence[Batch]) -> Tensor:
        """The table's shares (steps,)."""
        return self.table() / self.entries

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        return _piecewise(uniform, measured.to(uniform.device, torch.float64).flip(0), total)


class Switched(Timesteps):
    """The window in which the concept settles, by switching prompts as PCI does (arXiv 2512.08486); or what lies
    outside of it; or a window as wide, anywhere.

    Images are sampled under the target's caption up to each step and under the surrogate's from there on. The window's
    steps are those in which they leave the surrogate's image (more than `low` of the way) and arrive at the target's
    (`high` of it, for good). steps: of the sampler; examples: captions, one noise each. At the model's own guidance.

    Differs: PCI asks a vision-language model whether the concept is there, and switches from a prompt without it to one
    with it; here nobody judges: the way is measured in latents. benchmarks.studies.switching has both beside each
    other.
    """

    kind = "switched"

    def __init__(
        self,
        part: Literal["window", "complement", "random"] = "window",
        steps: Annotated[int, Field(ge=2)] = 15,
        examples: Count = 8,
        low: Portion = 0.1,
        high: Share = 0.9,
    ) -> None:
        if not low < high:
            raise BadInput(f"timesteps.low is {low} and timesteps.high {high}; the first must be the smaller one")
        self.part, self.steps, self.examples, self.low, self.high = part, steps, examples, low, high
        self.kind = "switched" if part == "window" else f"switched, {part}"

    @torch.no_grad()
    def measure(self, model: Diffusion, batches: Sequence[Batch]) -> Tensor:
        """Where the window begins and ends (2,); of a random one, where that does."""
        example, n, total = batches[0]["forget"], self.examples, model.train_steps
        own, other = example["prompt"][:n], example["surrogate"][:n]
        noise = torch.randn_like(example["latents"][:n])
        times, latents = switched(model, own, other, noise, self.steps, model.guidance)
        low, high = stretch(times, rise(travelled(latents), self.low, self.high), total)
        if self.part != "window" and high - low == total:
            raise BadInput(f"the concept settles over all steps, which leaves nothing for timesteps.part={self.part}")
        if self.part == "random":
            space = total - (high - low)
            begin = float(torch.rand(()) * space if times.is_floating_point() else torch.randint(int(space) + 1, ()))
            low, high = begin, begin + high - low
        return torch.tensor([low, high])

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        low, high = measured.to(uniform.device, torch.float64)
        return _within(uniform, total, low, high, self.part == "complement")


class Targeted(Timesteps):
    """SPARE's timestep targeting, in this project's reading: the authors' formula is not public (arXiv 2602.07058 v2).

    d(t) = E ‖ε_θ(z_t, t, c_f) − ε_θ(z_t, t, c_s)‖² is measured on `points` timesteps while locating, and the forget
    term's t is drawn from p(t) ∝ (1 − ρ) d(t)/Σd + ρ · uniform, piecewise constant between the points.

    measured_in: the parameterisation of d. "own" is the network's, in which the loss lives, and not invariant: for one
    z_t d_ε = ᾱ_t d_v, so that a v-model aims at high noise where an ε-model aims lower (neon on the small grid before
    the canvas, mean t: 781 in v, 464 in ε). "eps", "v" and "x0" mean the same for every network: the two predictions
    are converted before they are compared.
    """

    kind = "targeted"

    def __init__(self, rho: Portion = 0.3, points: Annotated[int, Field(ge=2)] = 20, measured_in: Said = "own") -> None:
        if not 0 <= rho <= 1:
            raise BadInput(f"timesteps.rho is {rho}; it must lie in [0, 1]")
        if points < 2:
            raise BadInput(f"timesteps.points is {points}; two or more are needed")
        self.rho, self.points = rho, points
        self.measured_in: Said = measured_in
        self.kind = "targeted" if measured_in == "own" else f"targeted in {measured_in}"

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
                found[k] += apart.square().mean().item() * model.process.squared(t, self.measured_in)
        return found

    def probabilities(self, measured: Tensor) -> Tensor:
        """p (points,) of each stretch of timesteps."""
        return (1 - self.rho) * measured / measured.sum().clamp(min=1e-20) + self.rho / len(measured)

    def draw(self, uniform: Tensor, total: int, measured: Tensor) -> Tensor:
        p = self.probabilities(measured.double()).to(uniform.device)
        return _piecewise(uniform, p, total)


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
