"""MemoRa: relearning from what the unlearned model itself makes of inverted images (Memory Self-Regeneration, arXiv
2510.03263).

Two images of the base are inverted by DDIM in the unlearned model, up to a share of the steps; between the two latents
others lie on a great circle; each is denoised by the unlearned model; a LoRA learns the images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fade.attacks import Scene
from fade.attacks.relearn import Relearn
from fade.attacks.trajectory import check_family, denoised, guidance_of, guided, pictures, skipped, steps_of
from fade.checked import Count, Counts, Portion, Positive
from fade.models import Diffusion, Noise

OWN = 777_767  # of the seeds that the pairs are drawn with


class Memora(Relearn):
    """pairs: of the base's images, by turns over the captions. between: k, from which k + 1 latents are made of a pair.
    first: the share of the steps that is not taken again. marks, batch, rank, rate: of the LoRA, as Relearn's.

    Differs: the inverse takes the steps down to t = 0 (the released one skips the lowest), and each pair has a caption
    of its own, one of the target's cells.
    """

    shown = False

    def __init__(
        self,
        pairs: Count = 3,
        between: Count = 10,
        first: Portion = 0.3,
        marks: Counts = (10, 50, 100, 200, 500),
        batch: Count = 1,
        rank: Count = 4,
        rate: Positive | None = None,
    ) -> None:
        super().__init__(pairs * (between + 1), "lora", marks, batch, rank, rate)
        self.pairs, self.between, self.first = pairs, between, first

    def suits(self, model: Diffusion) -> None:
        check_family(model)

    @torch.no_grad()
    def examples(self, scene: Scene) -> tuple[Tensor, list[str]]:
        asked = [scene.prompts[i % len(scene.prompts)] for i in range(self.pairs)]
        one, other = (self._inverted(scene, asked, seed) for seed in (0, 1))
        between = [great_circle(one, other, i / self.between) for i in range(self.between + 1)]
        made = [self._made(scene, z, asked) for z in between]
        return torch.cat(made), asked * len(made)

    def _inverted(self, scene: Scene, asked: list[str], seed: int) -> Tensor:
        model, steps = scene.model, steps_of(scene)
        noise = [Noise(OWN + scene.seed * 1000 + 2 * i + seed) for i in range(len(asked))]
        z = model.encode(scene.base.generate(asked, noise, scene.sampling))
        return inverted(model, z, asked, guidance_of(scene), skipped(self.first, steps), steps)

    def _made(self, scene: Scene, z: Tensor, asked: list[str]) -> Tensor:
        """Latents of the images that the unlearned model makes of z."""
        model, steps = scene.model, steps_of(scene)
        taken = range(skipped(self.first, steps), steps)
        return model.encode(pictures(model, denoised(model, z, asked, guidance_of(scene), taken, steps)))


def inverted(model: Diffusion, z: Tensor, prompts: list[str], guidance: float, first: int, steps: int) -> Tensor:
    """DDIM backwards: z_0 as it was before the step `first` of `steps`, each step's prediction taken at its end."""
    order = model.process.sampler(steps, model.device).timesteps
    below = torch.cat([order[1:], order.new_zeros(1)])
    said = guided(model, prompts, guidance)
    for t, low in reversed([*zip(order, below, strict=True)][first:]):
        found = said(z, t)
        kept, mixed = model.process.roots(z, low.expand(len(z)))  # type: ignore[attr-defined]  # check_family's
        if model.prediction == "v_prediction":
            clean, noise = kept * z - mixed * found, kept * found + mixed * z
        else:
            clean, noise = (z - mixed * found) / kept, found
        z = model.noised(clean, t.expand(len(z)), noise)
    return z


def great_circle(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Latents (N, C, h, w) on the great circle from one to the other: at 0 the one, at 1 the other."""
    dims = (1, 2, 3)
    cosine = (one * other).sum(dims, keepdim=True) / (
        one.square().sum(dims, keepdim=True) * other.square().sum(dims, keepdim=True)
    ).sqrt()
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-6)
    return (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / angle.sin()
