"""The target, asked in other tiers than its name; and what is left of the rest of a prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from grids import canvas
from judging import judge

from benchmarks.measure.answers import read
from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.judging import look, predict
from benchmarks.measure.predictions import read_rows
from benchmarks.measure.tiers import Questions, Told
from fade.data.canvas.dataset import Canvas
from fade.data.canvas.halves import halves
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.metrics import METRICS
from fade.models import Diffusion


def questions(dataset: Dataset, target: str, cache: Path, **settings: Any) -> Questions:
    judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
    protocol = Protocol("p", [1], fid=[], **{"tier_seeds": [7, 8], **settings})
    return Questions(Benchmark(dataset, judges, protocol, cache), Request.of(dataset, target, None))


@pytest.mark.parametrize(("target", "pairs"), [("neon_glow", 0), ("house_cat", 15)])
def test_every_cell_of_the_target_is_asked_in_every_tier_and_captions_take_turns(
    tmp_path: Path, target: str, pairs: int
) -> None:
    dataset = canvas()
    asked = questions(dataset, target, tmp_path).wanted
    counts = Counter((a.tier, a.seed) for a in asked)
    assert all(counts.pop((tier, seed)) == 16 for tier in ("template", "synonym", "description") for seed in (7, 8))
    assert counts == ({("pair", seed): pairs for seed in (7, 8)} if pairs else {})
    assert len({a.file for a in asked}) == len(asked) and all(target in a.shown for a in asked)
    told = [a for a in asked if a.half is None]
    assert all(a.prompt in dataset.language.captions(a.shown, a.tier) and target in a.cell.values() for a in told)
    assert len({a.prompt.replace(a.cell["object"].replace("_", " "), "") for a in told if a.tier == "template"}) >= 7
    name = target.replace("_", " ")
    assert not [a.prompt for a in told if a.tier != "template" and name in a.prompt]


def test_a_scene_is_judged_where_the_other_object_stands(tmp_path: Path) -> None:
    scenes = [a for a in questions(canvas(), "house_cat", tmp_path, tiers=["pair"]).wanted if a.half is not None]
    assert len(scenes) == 30 and Counter(a.half for a in scenes)[0] in (14, 15, 16)
    assert all(a.shown[1 + (a.half or 0)] == a.cell["object"] != "house_cat" for a in scenes)
    assert all(a.shown[2 - (a.half or 0)] == "house_cat" for a in scenes)
    assert len({a.cell["style"] for a in scenes}) == 16 and len({a.cell["object"] for a in scenes}) == 15


def test_rows_say_the_tier_and_what_is_read_in_the_image_or_in_its_half(model: Diffusion, tmp_path: Path) -> None:
    asked = questions(canvas(), "house_cat", tmp_path, tier_seeds=[7], tiers=["synonym", "pair"])
    rows = asked.answers(model, tmp_path / "asked")
    assert [row["tier"] for row in rows] == ["synonym"] * 16 + ["pair"] * 15 and len(asked.wanted) == 31
    assert [row["style"] + row["object"] for row in read_rows(tmp_path / "asked" / "predictions.csv")] == [
        answer.cell["style"] + answer.cell["object"] for answer in asked.wanted
    ]
    scenes: list[Told] = asked.wanted[16:]
    left, right = halves(read(list(scenes), tmp_path / "asked" / "images"))
    for k, answer in enumerate(scenes):
        seen = (right if answer.half else left)[k : k + 1]
        judges = {"object": asked.benchmark.judges["object"]}
        (row,) = predict(judges, [answer], look(judges, seen))
        assert row["object_probability"] == rows[16 + k]["object_probability"]
    assert [*asked.scores(rows)] == ["ua_synonym", "ua_synonym_p", "rest_of_prompt", "rest_of_prompt_p"]
    assert {"ua_synonym", "rest_of_prompt"} <= set(METRICS)
    assert asked.base_answers(model, "0" * 64) == rows and asked.cost(tmp_path / "asked")["asked_s"] > 0


def test_the_scores_by_hand(tmp_path: Path) -> None:
    asked = questions(canvas(), "house_cat", tmp_path, tier_seeds=[7])
    rows = [
        {"tier": a.tier, "file": a.file, "seed": "7", **a.cell, "object_predicted": "palm_tree"} for a in asked.wanted
    ]
    for row in [row for row in rows if row["tier"] == "synonym"][:4]:
        row["object_predicted"] = "house_cat"
    found = asked.scores(rows)
    assert {key: metric["value"] for key, metric in found.items()} == {
        "ua_template": 1.0,
        "ua_synonym": 0.75,
        "ua_description": 1.0,
        "rest_of_prompt": pytest.approx(1 / 15),  # the palm tree alone
    }
    assert found["ua_synonym"]["n"] == 16 and found["ua_synonym"]["low"] < 0.75 < found["ua_synonym"]["high"]


def test_what_a_dataset_lacks_is_not_asked_and_asked_for_it_is_refused(dataset: Canvas, tmp_path: Path) -> None:
    assert (
        not questions(dataset, "neon_glow", tmp_path).wanted
        and not questions(canvas(), "neon_glow", tmp_path, tiers=[]).wanted
    )
    with pytest.raises(BadInput, match=r"protocol\.tiers names 'synonym', which canvas does not have; it has name"):
        questions(dataset, "neon_glow", tmp_path, tiers=["synonym"])
    with pytest.raises(BadInput, match=r"names 'slang', which canvas does not have; it has name, template, synonym"):
        questions(canvas(), "neon_glow", tmp_path, tiers=["name", "slang"])
    with pytest.raises(BadInput, match=r"protocol\.tier_seeds is \[1, 1\]; name each seed once"):
        questions(canvas(), "neon_glow", tmp_path, tier_seeds=[1, 1])


def test_a_caption_of_a_tier_that_would_be_cut_is_refused(model: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the caption '.*' has \d+ tokens and the text encoder takes 14; shorten it"):
        questions(canvas(), "neon_glow", tmp_path).check(model)
