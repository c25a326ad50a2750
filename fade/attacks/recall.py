"""RECALL: latents that start from a real image of the concept and are moved by gradients, then image to image from them
(arXiv 2507.07139).

z = a·z_ref + (1 − a)·n; at each timestep, some steps of v ← 0.9 v + g/mean|g|, z ← z ± rate·sign(v), with
g = ∇_z MSE(f'(noised z_ref), f'(noised z)); and z ← z + pull·z_ref after every few timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.attacks import Attack, Find, Scene
from fade.attacks.trajectory import check_family, denoised, guidance_of, noised_part, pictures, steps_of
from fade.checked import Count, Portion, Positive
from fade.console import Stage
from fade.data.prompts import Cell
from fade.models import Diffusion, Noise
from fade.models.embedding import Embedding

MOMENTUM = 0.9


class Recall(Attack):
    """sign: 1 climbs the distance to the real image, as the released code does; −1 goes down, as its name says. times:
    timesteps, spread over T and ascending, each of `steps` steps of `rate`. share: a. every: timesteps between two
    pulls. strength: of the image to image, the share of the steps that is taken. marks: of equal length.

    Switched off: no gradient, the pulls and the draws as they were: image to image from a mixture.

    Differs: a real image of each cell, not one for all prompts; all cells at once; DDIM's steps, not LMS's; the
    attacker chooses at the marks by its own judge, where the paper stops at the first success of up to fifty draws and
    counts plain image to image among the successes.
    """

    level = "T1"
    optimises = True
    shown = True
    starts = True

    def __init__(
        self,
        sign: Literal[1, -1] = 1,
        times: Count = 50,
        steps: Count = 20,
        rate: Positive = 0.001,
        share: Portion = 0.25,
        pull: Portion = 0.05,
        every: Count = 5,
        strength: Portion = 0.8,
        marks: Count = 5,
    ) -> None:
        self.sign, self.times, self.steps, self.rate = sign, times, steps, rate
        self.share, self.pull, self.every, self.strength, self.marks = share, pull, every, strength, marks

    def suits(self, model: Diffusion) -> None:
        check_family(model)

    def finds(self, scene: Scene) -> list[Find]:
        latents, rows = scene.examples(len(scene.cells))
        g = scene.generator()
        z = self.share * latents + (1 - self.share) * torch.randn(latents.shape, generator=g).to(latents)
        asked = scene.model.embed([""] * len(rows) + [scene.prompts[row] for row in rows])
        speed, found = torch.zeros_like(z), []
        stage = Stage("searching", self.times, "while searching, after timestep")
        for k in range(self.times):
            t = int((k + 0.5) * scene.model.train_steps / self.times)
            for _ in range(self.steps):
                noise = torch.randn(latents.shape, generator=g).to(latents)
                if not scene.off:
                    speed = MOMENTUM * speed + gradient(scene.model, asked, latents, z, t, noise)
                    z = z + self.sign * self.rate * speed.sign()
            z = z + self.pull * latents if (k + 1) % self.every == 0 else z
            if (k + 1) * self.marks // self.times > k * self.marks // self.times:
                start = dict(zip(rows, z, strict=True))
                found.append(Find(f"{k + 1} timesteps", partial(self._draw, scene, start), scene.counter.units))
            stage.one()
        return found

    @torch.no_grad()
    def _draw(self, scene: Scene, start: dict[int, Tensor], cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
        model, steps = scene.model, steps_of(scene)
        z, first = noised_part(scene, start, self.strength, cells, noise)
        prompts = [scene.prompt(cell) for cell in cells]
        return pictures(model, denoised(model, z, prompts, guidance_of(scene), range(first, steps), steps))


def gradient(model: Diffusion, asked: Embedding, real: Tensor, z: Tensor, t: int, noise: Tensor) -> Tensor:
    """Of the distance between the predictions for z and for the real latents (N, C, h, w), each image's of mean size
    one. asked (2N): without and under the captions."""
    at, noise = torch.full((2 * len(z),), t, device=z.device), torch.cat([noise] * 2)
    with torch.no_grad():
        wanted = model.predict(model.noised(torch.cat([real] * 2), at, noise), at, asked)
    with torch.enable_grad():
        moved = z.detach().requires_grad_()
        given = model.predict(model.noised(torch.cat([moved] * 2), at, noise), at, asked)
        (found,) = torch.autograd.grad(mse_loss(given, wanted), moved)
    return found / (found.abs().mean((1, 2, 3), keepdim=True) + 1e-8)
