"""What every dataset of the suite is: cells of a grid of concepts, images for each, one caption template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fade.data.language import Language
from fade.data.prompts import Cell, caption, check_template, find_domain
from fade.errors import BadInput
from fade.files import content_hash

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "judge", "test")  # for the pipeline and for unlearning; for the judges; for their accuracy and FID


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its cell (concepts in the order of the dataset's domains) and where it comes from.

    row: its row in a table of images. also: other concepts that it shows, where a dataset's labels overlap.
    """

    concepts: tuple[str, ...]
    index: int
    path: Path | None = None
    row: int | None = None
    also: tuple[str, ...] = ()


class Dataset(ABC):
    """A grid of concepts with images.

    `domains` maps a domain ("style", "object") to its labels in the judges' order; where they are a part of a grid,
    `whole` has the grid's, which its judges know. `surrogates` names the default surrogate of a domain, and `template`
    has one field for each domain; `partials` are templates that name one domain alone, for pretraining; `says` holds
    the labels that captions name by another word.
    """

    name: str
    multilabel = False  # whether an image may show several concepts of one domain
    photo_style: str | None = None  # the style that is no style (UnlearnCanvas's Seed_Images)
    language: Language | None = None  # how else captions may say a concept, where the dataset knows

    def __init__(
        self,
        domains: dict[str, list[str]],
        template: str,
        surrogates: dict[str, str],
        partials: dict[str, str] | None = None,
    ) -> None:
        check_template(template, list(domains))
        self.domains = self.whole = domains
        self.template = template
        self.surrogates = surrogates
        self.partials = partials or {}
        self.says: dict[str, str] = {}

    @abstractmethod
    def items(self, split: str) -> list[Item]:
        """The images of a split, in a fixed order; the splits are disjoint."""

    @abstractmethod
    def image(self, item: Item, size: int) -> Image.Image:
        """An RGB image of `size` x `size`. Raises BadInput naming the file where it cannot be read."""

    def summary(self) -> str:
        """One line: what was found."""
        grid = " × ".join(f"{len(labels)} {domain}s" for domain, labels in self.domains.items())
        counts = {split: len(self.items(split)) for split in SPLITS}
        split = ", ".join(f"{k} {v:,}" for k, v in counts.items())
        return f"{self.name}: {grid}, {sum(counts.values()):,} images ({split})"

    def cells(self) -> list[Cell]:
        """Every cell of the grid, in label order."""
        return [dict(zip(self.domains, concepts, strict=True)) for concepts in product(*self.domains.values())]

    def cell(self, item: Item) -> Cell:
        return dict(zip(self.domains, item.concepts, strict=True))

    def caption(self, cell: Cell) -> str:
        return caption(self.template, cell, self.says)

    @property
    def tiers(self) -> list[str]:
        """The ways in which captions may say a concept: by `name`, and those of its language."""
        return ["name"] if self.language is None else self.language.tiers

    def partial_captions(self, cell: Cell) -> list[str]:
        """Captions that name one domain only, for pretraining."""
        return [caption(template, {domain: cell[domain]}, self.says) for domain, template in self.partials.items()]

    def surrogate(self, target: str, domain: str) -> str:
        """The default surrogate of a target: the domain's, or the next label where the target is that one itself."""
        labels = self.domains[domain]
        named = self.surrogates.get(domain)
        return named if named and named != target else labels[(labels.index(target) + 1) % len(labels)]

    def resolved(
        self, target: str, surrogate: str | None, within: str | None = None
    ) -> tuple[str, str, tuple[str, str] | None]:
        """The target's domain, what overwrites it, and the other domain and its concept where it is to be forgotten
        with that one alone. Raises BadInput for unknown names, for a surrogate equal to its target, and for a `within`
        of the target's own domain."""
        domain = find_domain(target, self.domains)
        surrogate = surrogate or self.surrogate(target, domain)
        if surrogate == target:
            raise BadInput(f"surrogate and target are both {target!r}; name another concept as the surrogate")
        if find_domain(surrogate, self.domains, "surrogate") != domain:
            raise BadInput(f"surrogate {surrogate!r} is no {domain}; the target {target!r} is one: name a {domain}")
        if within is None:
            return domain, surrogate, None
        other = find_domain(within, self.domains, "within")
        if other == domain:
            raise BadInput(f"within is {within!r}, of the target's own domain ({domain}); name one of another domain")
        return domain, surrogate, (other, within)

    def labels(self, items: list[Item], domain: str, among: list[str] | None = None) -> Tensor:
        """Class indices (N,) of the items in one domain. among: a judge's labels; None: the domain's own."""
        import torch  # here, as in the next two: names are looked up, and refused, without it

        place, labels = list(self.domains).index(domain), among or self.domains[domain]
        return torch.tensor([labels.index(item.concepts[place]) for item in items])

    def shown(self, items: list[Item], domain: str, among: list[str] | None = None) -> Tensor:
        """(N, labels) of 0 and 1: every concept of the domain that the items show."""
        import torch

        labels = among or self.domains[domain]
        table = torch.zeros(len(items), len(labels))
        for row, item in enumerate(items):
            for concept in (*item.concepts, *item.also):
                if concept in labels:
                    table[row, labels.index(concept)] = 1
        return table

    def images(self, items: list[Item], size: int) -> Tensor:
        """(N, 3, size, size) uint8."""
        import torch

        return torch.from_numpy(self.arrays(items, size)).permute(0, 3, 1, 2).contiguous()

    def arrays(self, items: list[Item], size: int) -> np.ndarray:
        """`images` without torch: (N, size, size, 3) uint8."""
        return np.stack([np.asarray(self.image(item, size)) for item in items])

    def fingerprint(self, items: list[Item], size: int) -> str:
        """Changes with the items, their files or the size: the key of what is computed from them."""
        stamps = [(item.path.stat().st_size, item.path.stat().st_mtime_ns) if item.path else () for item in items]
        keys = [
            (item.concepts, item.index, str(item.path), item.row, stamp)
            for item, stamp in zip(items, stamps, strict=True)
        ]
        return content_hash([self.name, size, keys])


def part(labels: list[str], chosen: Sequence[str] | None, option: str) -> list[str]:
    """The chosen ones of a domain's labels, in the labels' order; None: all. Raises BadInput for an unknown name, and
    for one label alone: forgotten, it would leave nothing to keep. option: where they are chosen."""
    for label in chosen or ():
        find_domain(label, {"": labels}, f"{option}:")
    kept = [label for label in labels if chosen is None or label in chosen]
    if len(kept) < 2:
        raise BadInput(
            f"{option} leaves {', '.join(kept) or 'nothing'}; one is forgotten and one is kept: name two or more"
        )
    return kept
