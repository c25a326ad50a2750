"""The embedding that the edited keys and values read as the concept: RECE's closed form (arXiv 2407.12383).

e* = argmin_e Σ_l ‖W'_l e − W_l e_c‖² + λ‖e‖² = (λI + Σ W'ᵀW')⁻¹ (Σ W'ᵀW) e_c, over the keys and values of all layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fade.attacks import Attack, Find, Scene
from fade.attacks.spelling import mapped
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.models.ledger import plain


class Closed(Attack):
    """ridges: the λ that are tried. One solve each, no pass of the network; every position of the prompt."""

    level = "T2"
    seeded = False

    def __init__(self, ridges: Sequence[float] = (1e-3, 0.1)) -> None:
        if not ridges or min(ridges) <= 0:
            raise BadInput(f"attack.closed.ridges is {list(ridges)}; give numbers above 0")
        self.ridges = list(ridges)

    def suits(self, model: Diffusion) -> None:
        if not text_weights(model):
            raise BadInput(
                f"{type(model).__name__} has no keys and values that read the text alone, which closed solves"
            )

    def finds(self, scene: Scene) -> list[Find]:
        edited, own = text_weights(scene.model), text_weights(scene.base)
        return [Find(f"λ = {ridge:g}", partial(_draw, scene, solve(edited, own, ridge))) for ridge in self.ridges]


def text_weights(model: Diffusion) -> list[Tensor]:
    """The weights (out, D) of cross-attention's keys and values, as they stand."""
    found = re.compile(rf"(?:{model.text_keys})\.weight$")
    return [w.detach() for name, w in model.network.named_parameters() if found.search(plain(name))]


@torch.no_grad()
def solve(edited: list[Tensor], own: list[Tensor], ridge: float) -> Tensor:
    """The matrix (D, D) that e_c is multiplied by."""
    gram = torch.stack([w.double().T @ w.double() for w in edited]).sum(0)
    cross = torch.stack([w.double().T @ v.double() for w, v in zip(edited, own, strict=True)]).sum(0)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross)


def _draw(scene: Scene, matrix: Tensor, cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
    with mapped(scene.model, scene.prompts, matrix):
        return scene.plain(cells, noise)
