"""The grid as a dataset: cells of one style and one object, and scenes of two objects."""

from __future__ import annotations

from itertools import permutations, product

from PIL import Image

from fade.checked import Whole
from fade.data.canvas import paint
from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.styles import STYLES
from fade.data.dataset import Dataset, Item
from fade.data.language import Language

SEEDS = {"train": 0, "judge": 1, "test": 2}  # offsets: each split draws scenes that the others never see
SCENES = 100_000  # of one seed


class Canvas(Dataset):
    """Sixteen styles × sixteen objects; `photo` plays UnlearnCanvas's Seed_Images.

    train, judge, test: images a cell in each split. pairs: images of each style and each two objects, in each split.
    sentences, said: see Language."""

    photo_style = "photo"
    language: Language

    def __init__(
        self,
        template: str,
        partials: dict[str, str],
        sentences: dict[str, list[str]],
        said: dict[str, dict[str, list[str]]],
        train: Whole,
        judge: Whole,
        test: Whole,
        pairs: Whole,
        seed: Whole = 0,
        name: str = "canvas",
    ) -> None:
        domains = {"style": list(STYLES), "object": list(OBJECTS)}
        super().__init__(domains, template, {"style": "photo"}, partials)
        self.counts = {"train": train, "judge": judge, "test": test}
        self.language = Language(domains, template, sentences, said)
        self.name, self.pairs, self.seed = name, pairs, seed

    def items(self, split: str) -> list[Item]:
        """Of a split, or of its scenes of two objects: "train", "train-pairs"."""
        of, _, pairs = split.partition("-")
        found = [(c["style"], c["object"]) for c in self.cells()] if not pairs else self.two()
        seed = self.seed * len(SEEDS) + SEEDS[of]
        return [
            Item(shown, seed * SCENES + k) for shown in found for k in range(self.pairs if pairs else self.counts[of])
        ]

    def two(self) -> list[tuple[str, ...]]:
        """Every style with every two objects, in both orders: left and right."""
        return [(style, *names) for style, names in product(STYLES, permutations(OBJECTS, 2))]

    def surrogate(self, target: str, domain: str) -> str:
        """A style's is the photo; an object's is the first of the next family, so that its look-alike is to be kept."""
        if domain == "style" and target != "photo":
            return super().surrogate(target, domain)
        labels = self.domains[domain]
        return labels[(labels.index(target) // 2 * 2 + 2) % len(labels)]

    def image(self, item: Item, size: int) -> Image.Image:
        seed, index = divmod(item.index, SCENES)
        style, *names = item.concepts
        return paint(style, names, index, seed, size)
