"""The grid of 16 x 16 as its configuration says it, and a part of it, with few images, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fade.data.canvas import paint
from fade.data.canvas.dataset import Canvas

CONF = Path(__file__).parents[1] / "conf" / "dataset" / "canvas.yaml"
STYLES = ["photo", "ink_sketch", "pencil_sketch", "neon_glow"]  # of the part: three families, two look-alikes
OBJECTS = ["house_cat", "wild_cat", "sea_fish", "city_bus"]
PART = [f"dataset.styles=[{','.join(STYLES)}]", f"dataset.objects=[{','.join(OBJECTS)}]"]  # on a command line
TEMPLATE = "A {object} image in {style} style."


def canvas(**changed: Any) -> Canvas:
    source = OmegaConf.to_container(OmegaConf.load(CONF)["dataset"])
    assert isinstance(source, dict)
    few = {"train": 1, "judge": 1, "test": 1, "pairs": 1}
    return Canvas(**{str(key): value for key, value in {**source, **few, **changed}.items() if key != "_target_"})


def small(train: int = 6, judge: int = 3, test: int = 3, **changed: Any) -> Canvas:
    """The part, of which captions know the names alone; `changed` by what Canvas takes."""
    given = {"template": TEMPLATE, "partials": {}, "sentences": {}, "said": {}, "styles": STYLES, "objects": OBJECTS}
    return Canvas(**{**given, **changed}, train=train, judge=judge, test=test, pairs=0)


def write(folder: Path, per_cell: int, size: int) -> None:
    """The part as {style}/{object}/{1..per_cell}.jpg."""
    for item in small(train=per_cell).items("train"):
        style, name = item.concepts
        (folder / style / name).mkdir(parents=True, exist_ok=True)
        paint(style, [name], item.index, 0, size).save(folder / style / name / f"{item.index + 1}.jpg", quality=95)
