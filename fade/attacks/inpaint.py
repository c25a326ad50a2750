"""Inpainting: the centre of a real image of the concept is hidden, and the model under attack fills it in (WACE).

After each step the part that is known is the real image, noised as far as the step went (arXiv 2201.09865).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fade.attacks import Attack, Find, Scene
from fade.attacks.trajectory import check_family, guidance_of, guided, pictures, starts, steps_of, under
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise


class Inpaint(Attack):
    """sides: of the hidden square in the middle, as shares of the image's; released: a half. T1.

    A real image of the prompt's own cell each. The judges see what was filled in alone, as large as an image: what the
    rim shows is not counted. Switched off, as Image: the base under the surrogate's caption.

    Differs: images of the data, not of the base, and no U-Net that was trained to inpaint (as released); no resampling,
    and the same noise in every step, as DDIM's is.
    """

    level = "T1"
    optimises = True
    starts = True
    seeded = False

    def __init__(self, sides: Sequence[float] = (0.5,)) -> None:
        if not sides or not all(0 < side < 1 for side in sides):
            raise BadInput(f"attack.inpaint.sides is {list(sides)}; give numbers between 0 and 1")
        self.sides = list(sides)

    def suits(self, model: Diffusion) -> None:
        check_family(model)

    def finds(self, scene: Scene) -> list[Find]:
        real = starts(scene)
        return [Find(f"a centre of {side:g}", partial(self._draw, scene, real, side)) for side in self.sides]

    @torch.no_grad()
    def _draw(
        self, scene: Scene, real: dict[int, Tensor], side: float, cells: Sequence[Cell], noise: Sequence[Noise]
    ) -> Tensor:
        model, prompts = under(scene, cells)
        known = torch.stack([real[scene.cells.index(cell)] for cell in cells])
        first = torch.cat([model.latent(n) for n in noise]).to(known)
        z = filled(model, known, first, hidden(known, side), prompts, guidance_of(scene), steps_of(scene))
        return middle(pictures(model, z), side)


def filled(
    model: Diffusion, real: Tensor, noise: Tensor, free: Tensor, prompts: list[str], guidance: float, steps: int
) -> Tensor:
    """Latents (N, C, h, w) that are `real` but where they are free (1, 1, h, w), which begins as noise."""
    sampler, said, z = model.process.sampler(steps, model.device), guided(model, prompts, guidance), noise
    for t, below in zip(sampler.timesteps, [*sampler.timesteps[1:], None], strict=True):
        z = sampler.step(said(z, t), t, z).prev_sample
        z = torch.where(free, z, real if below is None else model.noised(real, below.expand(len(z)), noise))
    return z


def hidden(latents: Tensor, side: float) -> Tensor:
    """Where (1, 1, h, w) the middle is."""
    free = torch.zeros_like(latents[:1, :1], dtype=torch.bool)
    free[..., _span(free.shape[-2], side), _span(free.shape[-1], side)] = True
    return free


def middle(images: Tensor, side: float) -> Tensor:
    """The middle of images (N, 3, H, W), as large as they are."""
    height, width = images.shape[-2:]
    part = images[..., _span(height, side), _span(width, side)]
    return interpolate(part, size=(height, width), mode="bilinear", align_corners=False)


def _span(length: int, side: float) -> slice:
    margin = round(length * (1 - side) / 2)
    return slice(margin, length - margin)
