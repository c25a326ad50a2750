"""What a pipeline of a grid in tiers is asked to draw, and how much of it the judges read rightly."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from fade.data.canvas.dataset import Canvas
from fade.data.canvas.halves import halves
from fade.data.language import PAIR
from fade.judges import Judge, accuracy
from fade.pretrain.captions import Shown


def asked(dataset: Canvas, without: str | None, tier: str, images: int | None) -> list[Shown]:
    """The cells that are asked for in a tier: all, or `images` of them, each row and column equally often. Of the
    scenes of two, one of each two objects, the styles in turn. without: a concept that is asked for
    nowhere."""
    styles, objects = dataset.domains.values()
    if tier == PAIR:
        two = list(permutations(objects, 2))
        cells: list[Shown] = [(styles[k % len(styles)], *names) for k, names in enumerate(two)]
    else:  # diagonals of the grid, one after another
        n, m = len(styles), len(objects)
        cells = [(styles[row], objects[(row + turn) % m]) for turn in range(m) for row in range(n)]
    cells = [cell for cell in cells if without not in cell]
    if images is None:
        return cells
    step = max(1, len(cells) // images) if tier == PAIR else 1
    return cells[::step][:images]


def right(judges: dict[str, Judge], images: Tensor, cells: list[Shown]) -> dict[str, float]:
    """Share of right style and of right objects."""
    two = len(cells[0]) > len(judges)
    views = {"style": images, "object": torch.cat(halves(images)) if two else images}
    truth = {"style": [c[0] for c in cells], "object": [c[k] for k in ((1, 2) if two else (1,)) for c in cells]}
    return {
        domain: accuracy(judge.cpu(), views[domain], torch.tensor([judge.labels.index(x) for x in truth[domain]]))
        for domain, judge in judges.items()
    }
