"""Imagenette: ten ImageNet classes, {train,val}/<wnid>/*.JPEG (imagenette2, -320 and -160 alike)."""

from __future__ import annotations

import csv
from pathlib import Path

from fade.data.dataset import Item
from fade.data.folder import Files
from fade.data.images import Left, image_files, subfolders
from fade.errors import BadInput

WNIDS = {
    "tench": "n01440764",
    "English_springer": "n02102040",
    "cassette_player": "n02979186",
    "chain_saw": "n03000684",
    "church": "n03028079",
    "French_horn": "n03394916",
    "garbage_truck": "n03417042",
    "gas_pump": "n03425413",
    "golf_ball": "n03445777",
    "parachute": "n03888257",
}
_NOISE = (0, 1, 5, 25, 50)


class Imagenette(Files):
    """One domain, `object`. `val` is the test split; of every class in `train`, `shares` go to pipeline and judge.

    root: the folder with train/ and val/, or its parent. noisy_labels: read the train labels from noisy_imagenette.csv,
    of which that percentage is wrong (0, 1, 5, 25 or 50); None takes them from the folders.
    """

    def __init__(
        self,
        root: str,
        template: str,
        shares: dict[str, float],
        noisy_labels: int | None = None,
        on_bad: str = "error",
        cache: str = "cache",
        name: str = "imagenette",
    ) -> None:
        base = self.find(Path(root))
        left = Left()
        items: dict[tuple[str, ...], list[Item]] = {(label,): [] for label in WNIDS}
        given = _noisy(base, noisy_labels) if noisy_labels is not None else {}
        labels = {wnid: label for label, wnid in WNIDS.items()}
        for part in ("train", "val"):
            for label, wnid in WNIDS.items():
                if not (base / part / wnid).is_dir():
                    raise BadInput(f"{base / part / wnid} is missing: {label}'s images of the {part} folder")
                for path in image_files(base / part / wnid, left):
                    key = f"{part}/{wnid}/{path.name}"
                    if part == "train" and given and key not in given:
                        raise BadInput(
                            f"{base / 'noisy_imagenette.csv'} has no row for {key}; leave dataset.noisy_labels out"
                        )
                    own = (labels[given[key]] if part == "train" and given else label,)
                    items[own].append(Item(own, len(items[own]), path))
        super().__init__(
            name, base, items, left, {"object": list(WNIDS)}, template, shares=shares, on_bad=on_bad, cache=cache
        )

    @staticmethod
    def find(root: Path) -> Path:
        """The folder with train/ and val/: root itself, or the one imagenette2* in it."""
        candidates = [root]
        if root.is_dir():
            candidates += [folder for folder in subfolders(root) if folder.name.startswith("imagenette2")]
        found = [folder for folder in candidates if (folder / "train").is_dir() and (folder / "val").is_dir()]
        if not found:
            raise BadInput(
                f"no folder {root / 'train'} and {root / 'val'}; set dataset.root to the folder that holds both"
            )
        if len(found) > 1:
            raise BadInput(
                f"{root} holds {', '.join(folder.name for folder in found)}; set dataset.root to one of them"
            )
        return found[0]

    def items(self, split: str) -> list[Item]:
        assert self.shares is not None
        val = self.root / "val"
        chosen = []
        for group in self.files.values():
            held_out = [item for item in group if item.path and item.path.is_relative_to(val)]
            own = [item for item in group if not (item.path and item.path.is_relative_to(val))]
            cut = round(self.shares["train"] * len(own))
            chosen += {"train": own[:cut], "judge": own[cut:], "test": held_out}[split]
        return chosen


def _noisy(base: Path, percentage: int) -> dict[str, str]:
    """train/<wnid>/<file> -> wnid, from the published table of wrong labels."""
    if percentage not in _NOISE:
        raise BadInput(f"dataset.noisy_labels is {percentage}; choose one of {', '.join(map(str, _NOISE))}, or null")
    path = base / "noisy_imagenette.csv"
    if not path.is_file():
        raise BadInput(f"no {path}; dataset.noisy_labels needs it")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"]: row[f"noisy_labels_{percentage}"] for row in csv.DictReader(file)}
