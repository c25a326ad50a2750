"""The change taken back in part: W_0 + s (W' − W_0). Whoever has the base can; a curve over s, and no search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from fade.attacks import Attack, Find, Scene
from fade.attacks.numerics import check_merged, draw_changed
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.ledger import untouched_weights


class Scale(Attack):
    """scales: s, from weak attacks to strong. T4: no work at all, and so reported as a fact about the adapter."""

    level = "T4"
    seeded = False

    def __init__(self, scales: Sequence[float] = (0.75, 0.5, 0.25)) -> None:
        if not scales or not all(0 <= s < 1 for s in scales):
            raise BadInput(f"attack.scale.scales is {list(scales)}; give numbers from 0 to below 1")
        self.scales = list(scales)

    def suits(self, model: Diffusion) -> None:
        check_merged(model)

    def finds(self, scene: Scene) -> list[Find]:
        own = untouched_weights(scene.base.network)
        return [Find(f"scale {s:g}", partial(draw_changed, scene, partial(_toward, own, s))) for s in self.scales]


def _toward(own: dict[str, Tensor], scale: float, name: str, weight: Tensor) -> Tensor:
    return own[name] + scale * (weight - own[name])
