"""The grid of 16 x 16 as its configuration says it, with few images, for the tests."""

from __future__ import annotations

from typing import Any

from command import ROOT
from omegaconf import OmegaConf

from fade.data.canvas.dataset import Canvas


def canvas(**changed: Any) -> Canvas:
    source = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "dataset" / "canvas.yaml")["dataset"])
    assert isinstance(source, dict)
    few = {"train": 1, "judge": 1, "test": 1, "pairs": 1}
    return Canvas(**{str(key): value for key, value in {**source, **few, **changed}.items() if key != "_target_"})
