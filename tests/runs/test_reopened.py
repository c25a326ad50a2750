"""A finished run of a part of UnlearnCanvas, opened again: the judges know the whole, the questions are of the part."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from command import SHIPPED
from configs import composed
from folders import canvas
from omegaconf import OmegaConf

import run
from benchmarks.measure.near import look_alikes
from benchmarks.runs.reopened import shared, together
from fade.data.pairs import Request
from fade.data.unlearncanvas import OBJECTS, STYLES

PART = {"style": ["Seed_Images", "Van_Gogh", "Picasso"], "object": ["Dogs", "Cats"]}
JUDGES = {"style50": len(STYLES), "style50_cls": len(OBJECTS)}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run's folder as run.py leaves it, its classifiers of random weights."""
    canvas(tmp_path / "images", PART["style"], PART["object"])
    torch.manual_seed(0)
    for name, classes in JUDGES.items():
        weights = timm.create_model("test_vit", num_classes=classes).state_dict()
        torch.save({"model_state_dict": weights}, tmp_path / f"{name}.pth")
    given = {
        **{f"dataset.{domain}s": f"[{','.join(labels)}]" for domain, labels in PART.items()},
        **{"dataset": "unlearncanvas", "dataset.root": tmp_path / "images", "classifiers": tmp_path},
        **{"model.path": SHIPPED / "pipeline", "target": "Van_Gogh", "protocol.judge_floor": 0, "protocol.batch": 3},
        **{"protocol.seeds": "[188]", "protocol.sampling.steps": 2, "protocol.sampling.size": 64},
    }
    size = timm.get_pretrained_cfg("test_vit").input_size[-1]
    more = [f"{w}judges.{d}.{k}" for d in PART for w, k in (("", "architecture=test_vit"), ("+", f"size={size}"))]
    config = composed(*(f"{key}={value}" for key, value in given.items()), *more)
    kept = OmegaConf.masked_copy(config, [key for key in config if key not in run.WHERE])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(kept))
    return tmp_path / "run"


@pytest.mark.processes
def test_the_judges_of_a_part_know_the_whole_grid(finished: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (model, own), (_, other) = (
        together([finished], cache),
        shared(run.task_of(composed(f"cache_dir={cache}")), [finished]),
    )
    for benchmark in (own, other):
        assert benchmark.dataset.domains == PART
        assert {domain: judge.labels for domain, judge in benchmark.judges.items()} == {
            "style": STYLES,
            "object": OBJECTS,
        }
    assert own.version(model) == other.version(model)
    base, request = own.measure_base(model, "0" * 64), Request.of(own.dataset, "Van_Gogh", None)
    assert own.score(base, request)["ua"]["n"] == 2 and len(base.rows) == 6
    assert {row["style_predicted"] for row in base.rows} <= {*STYLES}
    assert set(look_alikes(own, base, request)) == {"Seed_Images", "Picasso"}
