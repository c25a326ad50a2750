"""ScissorHands: the weights most connected to the concept are drawn anew, then the network is trained to keep the rest
and to leave the concept behind (arXiv 2401.06187).

as_released (Scissorhands_ex, SD/shs_cls.py): L = L_denoise(retain) − λ L_denoise(forget)
unlearncanvas (mu_scissorhands_shs): L = L_denoise(retain) + α ‖ε_θ(x_t, t, c_f) − sg ε_θ(x_t, t, c_pseudo)‖²
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Size, Tensor, nn

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput, at_least
from fade.gradients import trainable
from fade.methods import Gradients, Method, Take, denoising, dot, relabelled
from fade.models import Diffusion
from fade.saliency import denoising_gradients, sum_of_abs
from fade.sparsity import Weight

MARGIN, RIDGE, EVERY = 0.5, 1e-3, 10  # of the cone: GEM's margin and eps, and every how many steps it is looked at


def kaiming(shape: Size, generator: Generator) -> Tensor:
    """A new linear layer's weights: uniform within 1/√fan_in."""
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def normal(shape: Size, generator: Generator) -> Tensor:
    """Normal, deviation 0.02, cut off at ±2."""
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)


@dataclass(frozen=True)
class Released:
    """cut: the fraction of all weights that is ranked highest. batches: that the ranking sums |∂L| over. guidance: w of
    the loss that it is the gradient of. redraw: which weights are drawn anew where they are cut; fresh: from what."""

    cut: float
    batches: int
    guidance: float
    redraw: tuple[str, ...]
    fresh: Callable[[Size, Generator], Tensor]


VARIANTS = {
    # output_blocks 4 and 7 of the original names
    "as_released": Released(0.1, 10, 7.5, (r"up_blocks\.[12]\.attentions\.1\..*attn1\.",), kaiming),
    "unlearncanvas": Released(0.01, 1, 0.0, (r"attn2\.",), normal),
}


class ScissorHands(Method):
    """|θ ⊙ Σ_batches |∂L_f/∂θ|| ranks all weights under the adapter; of the top `cut` those that `redraw` (regular
    expressions over names) finds are drawn anew, biases as 0. None: the variant's own value. terms.forget is λ or α.

    as_released ranks by the guided loss ‖ε − [(1 + 7.5) ε_θ(c_f) − 7.5 ε_θ(∅)]‖², ascends the concept's own denoising
    loss and redraws self-attention in two blocks of the decoder. unlearncanvas ranks by the plain loss, teaches the
    surrogate's prediction (the live model's, without gradient) and redraws cross-attention. cone (unlearncanvas's
    --project, which none of its commands passes): every tenth step from the first, where the step would lower
    L_denoise(forget) of the network as it was after the cut, g becomes g + v g_o; g_o = −∇L_denoise(forget) of that
    network over the weights of `redraw`, v = max(0.5, −⟨g, g_o⟩/(‖g_o‖² + 0.001)), which is GEM's quadratic program for
    one memory.

    Differs: each batch is drawn at random, where the releases take the same first images of an unshuffled list in every
    step; c_pseudo is each caption's surrogate, UnlearnCanvas's the photographs' captions, whatever object they name; a
    single latent (the posterior's mode) serves both captions; the cone counts steps from the run's start, not the
    epoch's, and keeps one memory (its default). Of the authors' nudity script (loss_r + λ times the relabelling,
    kaiming for relu, a plain ranking) there is no variant.
    """

    terms: Mapping[str, float] = {"forget": 0.1, "retain": 1.0}
    kinds = ("patch",)

    def __init__(
        self,
        variant: str = "unlearncanvas",
        cut: float | None = None,
        batches: int | None = None,
        redraw: list[str] | None = None,
        cone: bool = False,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise BadInput(f"method.variant is {variant!r}; choose {' or '.join(VARIANTS)}")
        released = VARIANTS[variant]
        self.cut, self.batches = (
            (released.cut if cut is None else cut),
            (released.batches if batches is None else batches),
        )
        if not 0 < self.cut < 1:
            raise BadInput(f"method.cut is {cut}; the fraction that is cut must lie in (0, 1)")
        at_least(1, method__batches=self.batches)
        self.redraw = released.redraw if redraw is None else tuple(redraw)
        self.guidance, self.fresh, self.ascends = released.guidance, released.fresh, variant == "as_released"
        self.combines, self.due, self.terms = cone, False, self.weighted(terms)
        self.variant = f"{variant}, cone" if cone else variant
        self.memory: list[Tensor] = []  # g_o, for each weight of `redraw`

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        if not any(self.redrawn(name) for name in adapter.weights()):
            raise BadInput(
                f"none of the adapter's weights is one that method.redraw {list(self.redraw)} finds, so ScissorHands "
                "would cut nothing; widen adapter.targets or give method.redraw"
            )

    def redrawn(self, name: str) -> bool:
        return any(re.search(pattern, name) for pattern in self.redraw)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.places = [place for place, name in enumerate(adapter.weights()) if self.redrawn(name)]

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        generator = Generator().manual_seed(
            int(torch.randint(2**31, (1,)))
        )  # the loop has seeded this with the run's seed
        weights = adapter.weights()
        batches = [pairs.draw(generator) for _ in range(self.batches)]
        found = sum_of_abs(model, weights, batches, "forget", self.guidance, model.negative())
        cut = Weight(self.cut)({name: found[name] * weight.detach().abs() for name, weight in weights.items()})
        with torch.no_grad():
            for name, weight in weights.items():
                if self.redrawn(name):
                    weight.copy_(torch.where(cut[name], self.anew(name, weight.shape, generator).to(weight), weight))
        adapter.project()
        if self.combines:
            with trainable(model, weights):
                ascent = denoising_gradients(model, weights, pairs.draw(generator)["forget"])
            self.memory = [-ascent[place] for place in self.places]

    def anew(self, name: str, shape: Size, generator: Generator) -> Tensor:
        return torch.zeros(shape) if name.endswith("bias") else self.fresh(shape, generator)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        if not self.ascends:
            return relabelled(model, batch)
        forget, retain = (denoising(model, batch[side], batch[side]["prompt"]) for side in self.terms)  # type: ignore[literal-required]
        return {"forget": -forget, "retain": retain}

    def before_step(self, step: int, adapter: Adapter, take: Take) -> None:
        self.due = step % EVERY == 0

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        """The sum, in every tenth step within the cone of what does not teach the concept again."""
        step = [f + r for f, r in zip(gradients["forget"], gradients["retain"], strict=True)]
        memory = [m.to(step[place]) for m, place in zip(self.memory, self.places, strict=True)]
        along = float(dot([step[place] for place in self.places], memory))
        if self.due and along < 0:
            v = max(MARGIN, -along / (float(dot(memory, memory)) + RIDGE))
            for place, m in zip(self.places, memory, strict=True):
                step[place] = step[place] + v * m
        return step

    def state(self) -> dict[str, Tensor]:
        return {str(place): memory for place, memory in enumerate(self.memory)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.memory = list(state.values())
