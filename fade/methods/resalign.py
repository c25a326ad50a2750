"""ResAlign: what is forgotten is to be forgotten still after somebody fine-tuned the model (arXiv 2507.16302).

θ* = θ after a few steps of descent on the plain denoising loss of other images
L = L_u(θ) + λ (L_u(θ*) − L_u(θ)) + w_r · MSE(ε_θ(z_r, t', c_r), ε_0(z_r, t', c_r)),    ∇ L_u(θ*) ≈ ∇L_u at θ*
L_u = −MSE(ε_θ(z_f, t, c_f), y), y the target of plain training ("ga"), or
      MSE(ε_θ(z_f, t, c_f), ε_0(z_f, t, c_s) − η [ε_0(z_f, t, c_f) − ε_0(z_f, t, ∅)]) ("esd")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.checked import Count, NonNegative, Rate
from fade.data.pairs import Batch, Example, Pairs
from fade.methods import Method, denoising, noised
from fade.methods.fade_robust import answered
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.timesteps import Uniform, with_timesteps

OPTIMIZERS = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}
Loss = Callable[[], Tensor]
T = TypeVar("T")


class ResAlign(Method):
    """loss, eta: L_u and η; η = 0 is distillation into the surrogate, as FADE. terms.resilience is λ. In each step
    somebody's fine-tuning is drawn anew, one of each list: `shown`, whose images it takes, those of what is kept
    ("retain") or the concept's own ("forget"); tuning_steps, how many; rates, optimizers, by what. images: how many of
    a batch, which each of its steps draws anew.

    The paper's derivative of θ* by θ is that of a Moreau envelope, a fixed point v = g − H v that its code iterates K
    times; this is its first order, K = 1, which has no second derivatives: v = g.

    Differs from the code released (AntigoneRandy/ResAlign 14775d3): all fine-tuning is of the adapter's parameters,
    where one setting of 15 there is of all weights, and a third domain's prior images stand beside another's; one is
    drawn a step, there three, whose mean is taken; both L_u hear the same noise; "esd" erases from the surrogate's
    caption, there from "people"; Adam begins anew in each fine-tuning, there its moments stay; λ and w_r stay as they
    are, where there w_r goes from 1.6 to 2; gradients are clipped as this suite's, there a step above a norm of 0.2 is
    tried again, shortened; times are the suite's own.
    """

    terms: Mapping[str, float] = {"forget": 1.0, "resilience": 0.8, "retain": 1.6}

    def __init__(
        self,
        loss: Literal["ga", "esd"] = "ga",
        eta: NonNegative = 1.0,
        shown: Annotated[Sequence[Literal["retain", "forget"]], Field(min_length=1)] = ("retain",),
        tuning_steps: Annotated[Sequence[Count], Field(min_length=1)] = (5, 10, 20, 30),
        rates: Annotated[Sequence[Rate], Field(min_length=1)] = (1e-4, 1e-5),
        optimizers: Annotated[Sequence[Literal["gd", "adam"]], Field(min_length=1)] = ("gd", "adam"),
        images: Count = 1,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        self.loss, self.eta, self.images = loss, eta, images
        self.shown, self.tuning_steps, self.rates, self.optimizers = shown, tuning_steps, rates, optimizers
        self.variant, self.terms = loss, self.weighted(terms)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.pairs, self.empty = pairs, model.negative()

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget, retain = batch["forget"], batch["retain"]
        asked = [(noised(model, side), side["t"], side["prompt"]) for side in (forget, retain)]
        wanted, kept = self.wanted(model, adapter, batch)
        sign = -1 if self.loss == "ga" else 1
        # before the pass at θ, whose graph must not see the weights move
        tuned = self.tuned(model, adapter, lambda: sign * mse_loss(model.predict(*asked[0]), wanted))
        given, held = answered(model, asked)
        now = sign * mse_loss(given, wanted)
        return {"forget": now, "resilience": tuned - now, "retain": mse_loss(held, kept)}

    @torch.no_grad()
    def wanted(self, model: Diffusion, adapter: Adapter, batch: Batch) -> tuple[Tensor, Tensor]:
        """What L_u compares with, and what is to be said of the retain images."""
        forget, retain = batch["forget"], batch["retain"]
        asked = [forget["surrogate"]] if self.loss == "esd" else []
        asked += [forget["prompt"], self.empty.expand_as(forget["prompt"])] if asked and self.eta else []
        z = noised(model, forget)
        with adapter.off():
            *said, kept = answered(
                model, [*((z, forget["t"], c) for c in asked), (noised(model, retain), retain["t"], retain["prompt"])]
            )
        if not said:
            return model.target(forget["latents"], forget["t"], forget["noise"]), kept
        surrogate, *guided = said
        return (surrogate - self.eta * (guided[0] - guided[1]) if guided else surrogate), kept

    def tuned(self, model: Diffusion, adapter: Adapter, loss: Loss) -> Tensor:
        """The loss at θ*, with its gradient there as the gradient by θ."""
        parameters = adapter.parameters()
        with put_back(parameters):
            self.tune(model, adapter)
            there = loss()
            slopes = torch.autograd.grad(there, parameters, allow_unused=True)
        along = [(p * g).sum() for p, g in zip(parameters, slopes, strict=True) if g is not None]
        product = torch.stack(along).sum()
        return there.detach() + (product - product.detach())

    def example(self, model: Diffusion, side: Literal["retain", "forget"]) -> Example:
        """What a step of the fine-tuning is shown: of as many batches as it takes."""
        drawn = []
        for _ in range(-(-self.images // self.pairs.batch)):
            batch = self.pairs.draw(torch.Generator().manual_seed(int(torch.randint(2**31, (1,)))))
            drawn.append(with_timesteps(batch, Uniform(), torch.zeros(0), model.process)[side])
        return first(drawn, self.images)

    def tune(self, model: Diffusion, adapter: Adapter) -> None:
        """Somebody's fine-tuning, of the parameters in place."""
        side, steps = drawn(self.shown), drawn(self.tuning_steps)
        parameters = adapter.parameters()
        optimizer = OPTIMIZERS[drawn(self.optimizers)](parameters, lr=drawn(self.rates))
        for _ in range(steps):
            example = self.example(model, side)
            loss = denoising(model, example, example["prompt"])
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter.grad = slope
            optimizer.step()
            adapter.project()
            torch.clear_autocast_cache()  # it would go on with the weights as they were


def first(parts: Sequence[Example], n: int) -> Example:
    """The first n of several."""
    given = cast(Sequence[dict[str, Any]], parts)
    kinds = {name: Embedding if isinstance(rows, Embedding) else torch for name, rows in given[0].items()}
    return cast(Example, {name: kind.cat([part[name] for part in given])[:n] for name, kind in kinds.items()})


def drawn(choices: Sequence[T]) -> T:
    """One of them, all alike."""
    return choices[int(torch.randint(len(choices), (1,)))]


@contextmanager
def put_back(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Afterwards they have the values and the gradients that they had."""
    before = [(parameter.detach().clone(), parameter.grad) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, (value, slope) in zip(parameters, before, strict=True):
                parameter.copy_(value)
                parameter.grad = slope
        torch.clear_autocast_cache()
