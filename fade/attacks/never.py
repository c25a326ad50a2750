"""The control of capacity: a concept that nobody ever saw, taught to the base under the target's own word.

What an attack reaches here is what it can put into a model, and no memory of one. A style is the surrogate's images in
two colours; anything else is the surrogate upside down. It is read by the nearest class mean of a judge's features: the
reporting judge's for the report, the attacker's own where the attacker chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fade.attacks import spread
from fade.attacks.probe import Probe
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.files import content_hash
from fade.judges import Judge

DARK, LIGHT = torch.tensor([0.25, 0.0, 0.35]), torch.tensor([0.85, 1.0, 0.3])  # a duotone's colours
GREY = torch.tensor([0.299, 0.587, 0.114])  # luminance of red, green and blue
KNOWN = 0.9  # what the reading must get right of real images that it was not made of


def duotone(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] in two colours."""
    grey = (images * GREY[:, None, None]).sum(1, keepdim=True)
    return DARK[:, None, None] * (1 - grey) + LIGHT[:, None, None] * grey


def upside_down(images: Tensor) -> Tensor:
    return images.flip(-2)


@dataclass(frozen=True)
class Never:
    """judge: whose features are read. means (labels + 1, D): of each label's real images, the unseen concept's last.
    accuracy: on images of the unseen concept that the means are not made of."""

    judge: Judge | Probe
    style: bool
    means: Tensor
    accuracy: float

    @classmethod
    def of(
        cls, dataset: Dataset, request: Request, judge: Judge | Probe, size: int, images: int = 8, known: float = KNOWN
    ) -> Never:
        """Raises BadInput where the judge's features tell less than `known` of the unseen concept from the others."""
        style, cells = request.domain == "style", dataset.cells()
        rows = {label: [c for c in cells if c[request.domain] == label] for label in dataset.domains[request.domain]}
        real = {label: _pixels(dataset, own, size, 2 * images) for label, own in rows.items()}
        unseen = (duotone if style else upside_down)(real[request.surrogate])
        parts = [*(judge.features(pixels[:images]) for pixels in real.values()), judge.features(unseen[:images])]
        made = cls(judge, style, torch.stack([part.mean(0) for part in parts]), 0.0)
        apart = unseen[images:]
        accuracy = sum(made.reads(apart)) / len(apart) if len(apart) else 0.0
        if accuracy < known:
            raise BadInput(
                f"the {request.domain} judge's features read only {accuracy:.0%} of the unseen concept's images"
            )
        return cls(judge, style, made.means, accuracy)

    @property
    def identity(self) -> str:
        return content_hash([self.judge.identity, self.style, self.means.tolist()])

    def altered(self, images: Tensor) -> Tensor:
        """The surrogate's real images as the unseen concept's."""
        return duotone(images) if self.style else upside_down(images)

    @torch.no_grad()
    def reads(self, images: Tensor) -> list[bool]:
        """Whether each image is nearest to the unseen concept."""
        near = torch.cdist(self.judge.features(images), self.means).argmin(1)
        return (near == len(self.means) - 1).tolist()

    def share(self, images: Tensor) -> float:
        """Of the images, read as the unseen concept."""
        return sum(self.reads(images)) / len(images)


def _pixels(dataset: Dataset, cells: Sequence[Cell], size: int, images: int) -> Tensor:
    items = spread(dataset.items("train"), dataset, cells)[:images]
    return dataset.images(items, size).float() / 255
