"""The grid as a dataset: cells of one style and one object, and scenes of two objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

from PIL import Image

from fade.checked import Whole, Word
from fade.data.canvas import paint
from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.styles import STYLES
from fade.data.dataset import Dataset, Item, part
from fade.data.language import Language
from fade.errors import BadInput

SEEDS = {"train": 0, "judge": 1, "test": 2}  # offsets: each split draws scenes that the others never see
SCENES = 100_000  # of one seed


class Canvas(Dataset):
    """Sixteen styles × sixteen objects; `photo` plays UnlearnCanvas's Seed_Images.

    train, judge, test: images a cell in each split. pairs: images of each style and each two objects, in each split.
    styles, objects: a part of the grid, `photo` in it; None: all sixteen. sentences, said: see Language.
    Raises BadInput for a name that the grid does not have, for a part without the photo, and for one style or one
    object alone."""

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
        styles: Sequence[Word] | None = None,
        objects: Sequence[Word] | None = None,
    ) -> None:
        whole = {"style": list(STYLES), "object": list(OBJECTS)}
        chosen = {"style": styles, "object": objects}
        domains = {domain: part(labels, chosen[domain], f"dataset.{domain}s") for domain, labels in whole.items()}
        if "photo" not in domains["style"]:
            raise BadInput("dataset.styles leaves out photo, which is what a forgotten style becomes; name it too")
        super().__init__(domains, template, {"style": "photo"}, partials)
        self.whole = whole
        self.counts = {"train": train, "judge": judge, "test": test}
        self.language = Language(whole, template, sentences, said)
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
        styles, objects = self.domains.values()
        return [(style, *names) for style, names in product(styles, permutations(objects, 2))]

    def surrogate(self, target: str, domain: str) -> str:
        """A style's is the photo; an object's is the first of the next family, so that its look-alike is to be kept."""
        if domain == "style" and target != "photo":
            return super().surrogate(target, domain)
        labels, families = self.domains[domain], {label: k // 2 for k, label in enumerate(self.whole[domain])}
        place = labels.index(target)
        after = labels[place + 1 :] + labels[:place]
        return next((label for label in after if families[label] != families[target]), after[0])

    def image(self, item: Item, size: int) -> Image.Image:
        seed, index = divmod(item.index, SCENES)
        style, *names = item.concepts
        return paint(style, names, index, seed, size)
