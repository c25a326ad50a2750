"""MiniCanvas, the small grid of nine styles and eight objects that the project draws itself.

python -m fade.data.minicanvas FOLDER --per-cell 20      writes it in UnlearnCanvas's layout {style}/{object}/{n}.jpg
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fade.checked import Whole
from fade.data.dataset import Dataset, Item
from fade.data.minicanvas.drawing import OBJECTS, STYLES, paint
from fade.errors import BadInput
from fade.files import atomic

SEEDS = {"train": 0, "judge": 1, "test": 2}  # offsets: each split draws scenes that the others never see


class MiniCanvas(Dataset):
    """UnlearnCanvas in small; `photo` plays Seed_Images. `train`, `judge`, `test`: images a cell in each split."""

    photo_style = "photo"

    def __init__(
        self,
        template: str,
        partials: dict[str, str],
        train: Whole,
        judge: Whole,
        test: Whole,
        seed: Whole = 0,
        name: str = "minicanvas",
    ) -> None:
        domains = {"style": list(STYLES), "object": list(OBJECTS)}
        super().__init__(domains, template, {"style": "photo"}, partials)
        self.counts = {"train": train, "judge": judge, "test": test}
        self.name, self.seed = name, seed

    def items(self, split: str) -> list[Item]:
        seed = self.seed * len(SEEDS) + SEEDS[split]
        return [
            Item((cell["style"], cell["object"]), seed * 100_000 + k)
            for cell in self.cells()
            for k in range(self.counts[split])
        ]

    def image(self, item: Item, size: int) -> Image.Image:
        seed, index = divmod(item.index, 100_000)
        style, name = item.concepts
        return paint(style, name, index, seed, size)


def write(folder: Path, per_cell: int, size: int, seed: int) -> None:
    """Write {style}/{object}/{1..per_cell}.jpg, the whole folder or nothing."""
    if folder.exists():
        raise BadInput(f"{folder} exists already; name a new folder")
    with atomic(folder) as temporary:
        for style in STYLES:
            for name in OBJECTS:
                (temporary / style / name).mkdir(parents=True)
                for k in range(per_cell):
                    paint(style, name, k, seed, size).save(temporary / style / name / f"{k + 1}.jpg", quality=95)
