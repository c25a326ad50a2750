"""A few free vectors before each prompt, trained on one image of it that the base model drew: the inner attack of
AdvUnlearn (arXiv 2405.15234) with UnlearnDiffAtk's objective (arXiv 2310.11868), which it bounds from above."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fade.attacks import Attack, Find, Scene, attack_loss, descend
from fade.attacks.inversion import draw_spelt, heard_of
from fade.attacks.spelling import Hears, Slots, check_words, embedded, norm, prefixed, spelt, table
from fade.checked import Count, Counts, Positive
from fade.models import Diffusion, Noise

OWN = 999_983  # of the seeds that the attacker draws the base's images with


class Prefix(Attack):
    """length: vectors before each prompt, its own for each. marks, rate, hears: as Inversion's; all prompts at once.

    Differs from AdvUnlearn's: three vectors, and the gradient is set to zero between the steps, which the released code
    forgets.
    """

    level = "T2"
    optimises = True

    def __init__(
        self, length: Count = 3, marks: Counts = (45, 90, 180), rate: Positive = 0.1, hears: Hears = "text"
    ) -> None:
        self.length, self.marks, self.rate, self.hears = length, list(marks), rate, hears

    def suits(self, model: Diffusion) -> None:
        check_words(model)

    def finds(self, scene: Scene) -> list[Find]:
        model, heard = scene.model, heard_of(scene, self.hears)
        slots = before_each(scene, heard, self.length)
        latents, g = remembered(scene), scene.generator()
        width = table(model).weight.shape[1]
        vectors = torch.zeros(len(scene.cells) * self.length, width, device=model.device, requires_grad=True)

        def loss(step: int) -> Tensor:
            t = model.process.draw(len(latents), generator=g).to(model.device)
            noise = torch.randn(latents.shape, generator=g).to(latents)
            with spelt(model, slots, vectors):
                return attack_loss(model, latents, t, noise, embedded(model, list(heard.values())))

        optimizer = torch.optim.Adam([vectors], lr=self.rate * norm(model))
        marks = descend(scene, [vectors], loss, optimizer, self.marks)
        return [
            Find(f"{mark.step} steps", partial(draw_spelt, scene, heard, slots, mark.values[0]), mark.units)
            for mark in marks
        ]


def before_each(scene: Scene, heard: dict[str, str], length: int) -> dict[str, Slots]:
    """What is heard, spelt as its caption with `length` free vectors of its own before it; cut where it is too long."""
    return {heard[prompt]: slots for prompt, slots in prefixed(scene.model, scene.prompts, length).items()}


def remembered(scene: Scene) -> Tensor:
    """Latents (N, C, h, w) of one image of each prompt, by the base model, from seeds of the attacker's own."""
    return scene.once("remembered", partial(_remembered, scene))


@torch.no_grad()
def _remembered(scene: Scene) -> Tensor:
    noise = [Noise(OWN + scene.seed * 1000 + i) for i in range(len(scene.cells))]
    return scene.base.encode(scene.base.generate(scene.prompts, noise, scene.sampling))
