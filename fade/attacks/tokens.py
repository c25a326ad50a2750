"""UnlearnDiffAtk: tokens before each prompt, searched as distributions over the vocabulary (arXiv 2310.11868).

min over u in Δ(V)^k of MSE(f'(z_t, t, TE(s(u)E, prompt)), y), z_0 one image of the prompt by the base. s(u): one draw a
row; the gradient of the drawn one-hot goes to u, clipped to ±1; after each step the rows go back onto the simplex.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fade.attacks import Attack, Find, Scene, attack_loss, descend
from fade.attacks.inversion import found_tokens, heard_of
from fade.attacks.prefix import before_each, remembered
from fade.attacks.spelling import Hears, check_words, embedded, spelt, table
from fade.checked import Count, NonNegative, Positive
from fade.models import Diffusion


class Tokens(Attack):
    """length: k. times: how many timesteps, spread over T and ascending; steps: at each. rate, decay: of Adam on u.
    hears: what a gate or a text edit hears, the tokens that were found and the caption behind them (text), or the
    surrogate's caption (bypass); during the search, when they are no tokens yet, the caption.

    Differs: the prompts of all cells are searched at once, each with its own u; the number of timesteps is a setting;
    the attacker chooses by a judge of its own at the marks, and does not stop at the first success.
    """

    level = "T2"
    optimises = True

    def __init__(
        self,
        length: Count = 3,
        times: Count = 50,
        steps: Count = 40,
        rate: Positive = 0.01,
        decay: NonNegative = 0.1,
        marks: Count = 4,
        hears: Hears = "text",
    ) -> None:
        self.length, self.times, self.steps, self.rate, self.decay = length, times, steps, rate, decay
        self.marks, self.hears = marks, hears

    def suits(self, model: Diffusion) -> None:
        check_words(model)

    def finds(self, scene: Scene) -> list[Find]:
        model, heard, latents = scene.model, heard_of(scene, self.hears), remembered(scene)
        slots, g, words = before_each(scene, heard, self.length), scene.generator(), table(model).weight
        u = torch.full((len(scene.cells) * self.length, len(words)), 1 / len(words), requires_grad=True)

        def loss(step: int) -> Tensor:
            t = torch.full((len(latents),), self._time(step, model.train_steps), device=model.device)
            noise = torch.randn(latents.shape, generator=g).to(latents)
            with spelt(model, slots, _Drawn.apply(u, torch.multinomial(u.detach(), 1, generator=g)).to(words) @ words):
                return attack_loss(model, latents, t, noise, embedded(model, list(heard.values())))

        total = self.times * self.steps
        marks = [total * (k + 1) // self.marks for k in range(self.marks)]
        optimizer = torch.optim.Adam([u], lr=self.rate, weight_decay=self.decay)
        found = descend(scene, [u], loss, optimizer, marks, partial(_onto_simplex, u), cosine=False)
        return [
            found_tokens(scene, heard, slots, m.values[0].argmax(1), self.hears, f"{m.step} steps", m.units)
            for m in found
        ]

    def _time(self, step: int, train_steps: int) -> int:
        """The middle of the bin that the step is in."""
        return int((step // self.steps + 0.5) * train_steps / self.times)


class _Drawn(torch.autograd.Function):
    """The one-hot rows of a draw (F, 1) from u (F, V); backwards the gradient as it is, clipped to ±1."""

    @staticmethod
    def forward(ctx: object, u: Tensor, drawn: Tensor) -> Tensor:
        return torch.zeros_like(u).scatter_(1, drawn.to(u.device), 1.0)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].clamp(-1, 1), None


@torch.no_grad()
def _onto_simplex(u: Tensor) -> None:
    u.copy_(onto_simplex(u))


def onto_simplex(rows: Tensor, halvings: int = 60) -> Tensor:
    """The nearest points (N, V) of the simplex: max(rows − τ, 0), τ by bisection so that each sums to one."""
    low, high = rows.min(1, keepdim=True).values - 1, rows.max(1, keepdim=True).values
    for _ in range(halvings):
        middle = (low + high) / 2
        above = (rows - middle).clamp(min=0).sum(1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    found = (rows - high).clamp(min=0)
    return found / found.sum(1, keepdim=True)
