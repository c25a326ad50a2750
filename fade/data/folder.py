"""Images in class folders: root/class/* (one domain), and root/style/object/* (a grid, UnlearnCanvas's layout)."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fade.data.dataset import SPLITS, Dataset, Item, open_image
from fade.errors import BadInput

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class Folder(Dataset):
    """Cells as nested folders, one level for each domain; files in a cell are split by their place in it.

    domains: labels in the judges' order; a domain given as None takes the folder names, sorted. folders: label -> folder
    name where they differ. shares: fractions of a cell for the splits train, judge, test, in the order of file names.
    Raises BadInput for a missing or empty root, cell, or label.
    """

    def __init__(
        self,
        name: str,
        root: str,
        domains: dict[str, list[str] | None],
        template: str,
        surrogates: dict[str, str] | None = None,
        partials: dict[str, str] | None = None,
        folders: dict[str, str] | None = None,
        shares: dict[str, float] | None = None,
    ) -> None:
        self.name, self.root, self.folders = name, Path(root), folders or {}
        self.shares = shares or {"train": 0.7, "judge": 0.15, "test": 0.15}
        if not self.root.is_dir():
            raise BadInput(f"no folder {self.root}; set dataset.source.root to where {name} lies")
        found = {d: labels or self._names(depth) for depth, (d, labels) in enumerate(domains.items())}
        super().__init__(found, template, surrogates or {}, partials)
        self.files = {tuple(cell.values()): self._files(tuple(cell.values())) for cell in self.cells()}

    def _names(self, depth: int) -> list[str]:
        level = [self.root]
        for _ in range(depth + 1):
            level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
        names = sorted({child.name for child in level if not child.name.startswith(".")})
        if not names:
            raise BadInput(f"{self.root} holds no class folders")
        return names

    def _files(self, concepts: tuple[str, ...]) -> list[Path]:
        folder = self.root.joinpath(*(self.folders.get(c, c) for c in concepts))
        if not folder.is_dir():
            raise BadInput(f"{folder} is missing: {self.name} needs a folder for {'/'.join(concepts)}")
        files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
        if len(files) < len(SPLITS):
            raise BadInput(f"{folder} holds {len(files)} images; a class needs at least {len(SPLITS)}, one for each split")
        empty = [f for f in files if f.stat().st_size == 0]
        if empty:
            raise BadInput(f"{empty[0]} is empty; restore or remove it")
        return sorted(files, key=lambda f: (len(f.stem), f.name))  # 2.jpg before 10.jpg

    def items(self, split: str) -> list[Item]:
        first = 0.0
        for name in SPLITS[: SPLITS.index(split)]:
            first += self.shares[name]
        chosen = []
        for concepts, files in self.files.items():
            a, b = round(first * len(files)), round((first + self.shares[split]) * len(files))
            chosen += [Item(concepts, k, files[k]) for k in range(a, b)]
        return chosen

    def image(self, item: Item, size: int) -> Image.Image:
        assert item.path is not None
        return open_image(item.path, size)
