"""Another sampler: guidance, steps, a negative prompt, noise at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from fade.attacks import Attack, Find, Scene
from fade.checked import NonNegative, Positive
from fade.data.prompts import Cell
from fade.models import Noise, Sampling


class Sampler(Attack):
    """guidance, steps: multiples of the model's own. samplers: classes of diffusers' schedulers. negative: whether the
    surrogate is tried as the negative prompt. T0 and T2."""

    level = "T2"
    fixed = True
    seeded = False

    def __init__(
        self,
        guidance: Sequence[NonNegative] = (0.5, 2.0),
        steps: Sequence[Positive] = (0.34, 3.0),
        samplers: Sequence[str] = (),
        negative: bool = True,
    ) -> None:
        self.guidance, self.steps, self.samplers, self.negative = list(guidance), list(steps), list(samplers), negative

    def finds(self, scene: Scene) -> list[Find]:
        return [Find(name, partial(_draw, scene, how)) for name, how in self._ways(scene).items()]

    def _ways(self, scene: Scene) -> dict[str, Sampling]:
        own, model = scene.sampling, scene.model
        guidance = model.guidance if own.guidance is None else own.guidance
        steps = own.steps or model.steps
        found = {f"guidance {g * guidance:g}": replace(own, guidance=g * guidance) for g in self.guidance}
        found |= {f"{max(1, round(k * steps))} steps": replace(own, steps=max(1, round(k * steps))) for k in self.steps}
        found |= {name: replace(own, sampler=name) for name in self.samplers}
        return found | ({"surrogate as negative": replace(own, negative=scene.instead)} if self.negative else {})


def _draw(scene: Scene, how: Sampling, cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
    return scene.drawn([scene.prompt(cell) for cell in cells], noise, how)
