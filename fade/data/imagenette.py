"""Imagenette: ten ImageNet classes, {train,val}/<wnid>/*.JPEG (imagenette2, -320 and -160 alike)."""

from __future__ import annotations

from pathlib import Path

from fade.data.dataset import Item
from fade.data.folder import Folder
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


class Imagenette(Folder):
    """One domain, `object`. The published train folder teaches pipeline and judge alike; val is the test split."""

    def __init__(self, root: str, template: str) -> None:
        base = Path(root)
        missing = [part for part in ("train", "val") if not (base / part).is_dir()]
        if missing:
            raise BadInput(f"no folder {base / missing[0]}; set dataset.root to the folder that holds train/ and val/")
        super().__init__("imagenette", str(base / "train"), {"object": list(WNIDS)}, template, folders=WNIDS)
        self.held_out = Folder("imagenette", str(base / "val"), {"object": list(WNIDS)}, template, folders=WNIDS)

    def items(self, split: str) -> list[Item]:
        files = self.held_out.files if split == "test" else self.files
        return [Item(concepts, k, path) for concepts, paths in files.items() for k, path in enumerate(paths)]
