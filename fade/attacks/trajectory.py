"""Other starts: a real image of the concept, noised (image to image), or the base's own first steps (completion).

The image brings a part of the concept by itself: the control, in place of an optimiser that is off, is the base under
the surrogate's caption from the same start. What exceeds it is memory. Completion: "When are concepts erased?" (WACE).
The steps are DDIM's, whatever the pipeline's sampler is: others cannot begin in the middle, for they remember earlier
steps, take more than they are asked for, or scale what the network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fade.attacks import Attack, Find, Scene
from fade.checked import Counts
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.models.stable_diffusion import StableDiffusion


class Image(Attack):
    """strengths: the share of the steps that is taken, from a real image noised so far. T1.

    A real image of the prompt's own cell each.
    """

    level = "T1"
    optimises = True
    starts = True
    seeded = False

    def __init__(self, strengths: Sequence[float] = (0.8, 0.6, 0.4)) -> None:
        if not strengths or not all(0 < s < 1 for s in strengths):
            raise BadInput(f"attack.image.strengths is {list(strengths)}; give numbers between 0 and 1")
        self.strengths = list(strengths)

    def suits(self, model: Diffusion) -> None:
        check_family(model)

    def finds(self, scene: Scene) -> list[Find]:
        real = starts(scene)
        return [Find(f"strength {s:g}", partial(self._draw, scene, real, s)) for s in self.strengths]

    @torch.no_grad()
    def _draw(
        self, scene: Scene, real: dict[int, Tensor], strength: float, cells: Sequence[Cell], noise: Sequence[Noise]
    ) -> Tensor:
        z, first = noised_part(scene, real, strength, cells, noise)
        return finished(scene, z, cells, first, steps_of(scene))


class Completion(Attack):
    """first: how many of the steps the base takes under the caption before the unlearned model goes on; in haste the
    same share of them. Those that would leave it no step are left out. T2."""

    level = "T2"
    optimises = True
    seeded = False

    def __init__(self, first: Counts = (1, 2, 4)) -> None:
        self.first = list(first)

    def suits(self, model: Diffusion) -> None:
        check_family(model)

    def finds(self, scene: Scene) -> list[Find]:
        steps = steps_of(scene)
        return [Find(f"after {m} steps", partial(self._draw, scene, m / steps)) for m in self.first if m < steps]

    @torch.no_grad()
    def _draw(self, scene: Scene, share: float, cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
        base, steps = scene.base, steps_of(scene)
        first = skipped(share, steps)
        z = torch.cat([base.latent(n) for n in noise]).to(base.device)
        z = denoised(base, z, [scene.prompt(cell) for cell in cells], guidance_of(scene), range(first), steps)
        return finished(scene, z, cells, first, steps)


def check_family(model: Diffusion) -> None:
    """Raises BadInput for a family whose trajectory is another."""
    if not isinstance(model, StableDiffusion):
        raise BadInput(f"{type(model).__name__} is not sampled as Stable Diffusion is, whose steps this attack takes")


def guidance_of(scene: Scene) -> float:
    return scene.model.guidance if scene.sampling.guidance is None else scene.sampling.guidance


def steps_of(scene: Scene) -> int:
    return scene.sampling.steps or scene.model.steps


def skipped(share: float, steps: int) -> int:
    """How many of the first steps a share of them is; one is left."""
    return min(steps - 1, round(share * steps))


def starts(scene: Scene) -> dict[int, Tensor]:
    """Latents (C, h, w) of a real image of each cell, by the cell's index."""
    latents, rows = scene.examples(len(scene.cells))
    return dict(zip(rows, latents, strict=True))


def noised_part(
    scene: Scene, start: dict[int, Tensor], strength: float, cells: Sequence[Cell], noise: Sequence[Noise]
) -> tuple[Tensor, int]:
    """Latents (C, h, w) of each cell's row noised so far that a share `strength` of the steps is left, and the first of
    those."""
    model, steps = scene.model, steps_of(scene)
    z = torch.stack([start[scene.cells.index(cell)] for cell in cells])
    first = skipped(1 - strength, steps)
    t = model.process.sampler(steps, model.device).timesteps[first].expand(len(cells))
    return model.noised(z, t, torch.cat([model.latent(n) for n in noise]).to(z)), first


def finished(scene: Scene, z: Tensor, cells: Sequence[Cell], first: int, steps: int) -> Tensor:
    """Images (N, 3, H, W): the model under attack takes the steps from `first`; the control where the scene is off."""
    model, prompts = under(scene, cells)
    return pictures(model, denoised(model, z, prompts, guidance_of(scene), range(first, steps), steps))


def under(scene: Scene, cells: Sequence[Cell]) -> tuple[Diffusion, list[str]]:
    """The model under attack and the cells' captions; the base and the surrogate's, for the control that is off."""
    if scene.off:
        return scene.base, [scene.prompt(scene.request.overwritten(cell)) for cell in cells]
    return scene.model, [scene.prompt(cell) for cell in cells]


@torch.no_grad()
def pictures(model: Diffusion, z: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of latents z_0."""
    vae = model.pipe.vae
    z = z / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0)  # as `Diffusion.encode`
    return (vae.decode(z).sample / 2 + 0.5).clamp(0, 1).float().cpu()


def denoised(model: Diffusion, z: Tensor, prompts: list[str], guidance: float, taken: range, steps: int) -> Tensor:
    """z after the steps `taken` of `steps`, under the prompts; gates hear them."""
    sampler, said = model.process.sampler(steps, model.device), guided(model, prompts, guidance)
    for t in sampler.timesteps[taken.start : taken.stop]:
        z = sampler.step(said(z, t), t, z).prev_sample
    return z


def guided(model: Diffusion, prompts: list[str], guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
    """What the network says, with guidance, of z (B, C, h, w) at one t; gates hear the prompts."""
    given, without, asked = model.embed(prompts), model.embed([""]), list(prompts)

    def said(z: Tensor, t: Tensor) -> Tensor:
        model.prompts.asked = asked
        try:
            return model.guided(z, t, given, guidance, without)
        finally:
            model.prompts.asked = None

    return said
