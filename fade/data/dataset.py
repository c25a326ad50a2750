"""What every dataset of the suite is: cells of a grid of concepts, images for each, one caption template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fade.errors import BadInput
from fade.files import content_hash
from fade.prompts import Cell, caption, check_template

SPLITS = ("train", "judge", "test")  # for the pipeline and for unlearning; for the judges; for their accuracy and FID


@dataclass(frozen=True)
class Item:
    """One image: its cell (concepts in the order of the dataset's domains) and where it comes from."""

    concepts: tuple[str, ...]
    index: int
    path: Path | None = None


class Dataset(ABC):
    """A grid of concepts with images.

    `domains` maps a domain ("style", "object") to its labels in the judges' order. `surrogates` names the default
    surrogate of a domain, and `template` has one field for each domain;
    `partials` are templates that name one domain alone, for pretraining.
    """

    name: str

    def __init__(
        self, domains: dict[str, list[str]], template: str, surrogates: dict[str, str], partials: dict[str, str] | None = None
    ) -> None:
        check_template(template, list(domains))
        self.domains = domains
        self.template = template
        self.surrogates = surrogates
        self.partials = partials or {}

    @abstractmethod
    def items(self, split: str) -> list[Item]:
        """The images of a split, in a fixed order; the splits are disjoint."""

    @abstractmethod
    def image(self, item: Item, size: int) -> Image.Image:
        """An RGB image of `size` x `size`. Raises BadInput naming the file where it cannot be read."""

    def cells(self) -> list[Cell]:
        """Every cell of the grid, in label order."""
        return [dict(zip(self.domains, concepts, strict=True)) for concepts in product(*self.domains.values())]

    def cell(self, item: Item) -> Cell:
        return dict(zip(self.domains, item.concepts, strict=True))

    def caption(self, cell: Cell) -> str:
        return caption(self.template, cell)

    def partial_captions(self, cell: Cell) -> list[str]:
        """Captions that name one domain only, for pretraining."""
        return [caption(template, {domain: cell[domain]}) for domain, template in self.partials.items()]

    def surrogate(self, target: str, domain: str) -> str:
        """The default surrogate of a target: the domain's, or the next label where the target is that one itself."""
        labels = self.domains[domain]
        named = self.surrogates.get(domain)
        return named if named and named != target else labels[(labels.index(target) + 1) % len(labels)]

    def labels(self, items: list[Item], domain: str) -> Tensor:
        """Class indices (N,) of the items in one domain."""
        place = list(self.domains).index(domain)
        return torch.tensor([self.domains[domain].index(item.concepts[place]) for item in items])

    def images(self, items: list[Item], size: int) -> Tensor:
        """(N, 3, size, size) uint8."""
        arrays = [np.asarray(self.image(item, size)) for item in items]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def fingerprint(self, items: list[Item], size: int) -> str:
        """Changes with the items, their files or the size: the key of what is computed from them."""
        stamps = [(item.path.stat().st_size, item.path.stat().st_mtime_ns) if item.path else () for item in items]
        keys = [(item.concepts, item.index, str(item.path), stamp) for item, stamp in zip(items, stamps, strict=True)]
        return content_hash([self.name, size, keys])


def open_image(path: Path, size: int) -> Image.Image:
    """Read a file as RGB, the shorter side resized to `size`, the centre kept."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadInput(f"{path}: not a readable image ({error}); repair or remove it") from error
    short = min(image.size)
    image = image.resize((round(image.width * size / short), round(image.height * size / short)), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
