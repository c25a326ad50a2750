"""Look-alikes, what the retain set never showed, and probabilities in the place of counts: by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from judging import judge
from scipy.stats import norm

from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.metrics import Hit, interval, scores, share, told, wilson
from benchmarks.measure.near import confusion, kept, look_alikes, nearest
from benchmarks.measure.target import TargetMeter
from benchmarks.record.results import Run
from benchmarks.report.tables import run_table
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Request
from fade.data.prompts import words
from fade.errors import BadInput
from fade.judges import Judge
from fade.metrics import about, harder, twins
from fade.models import Diffusion


def test_the_nearest_have_the_least_sum_of_two_ranks() -> None:
    """Class 0 is taken for 3 most, then for 1; in features it is 1, 2 and 9 from the others: ranks 2 + 1 for class 1,
    3 + 2 for class 2, 1 + 3 for class 3."""
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]]).repeat_interleave(2, 0)
    p = torch.tensor([[0.6, 0.1, 0.0, 0.3], [0.1, 0.9, 0, 0], [0.05, 0, 0.95, 0], [0, 0, 0, 1.0]]).repeat_interleave(
        2, 0
    )
    labels = torch.arange(4).repeat_interleave(2)
    assert torch.allclose(confusion(p, labels), p[::2])
    assert nearest((p, features), labels, 0) == [1, 3]
    assert nearest((p.roll(1, 1)[:, [1, 0, 2, 3]], -features), labels, 3)[0] == 2  # equal ranks: features decide


def rows() -> list[dict[str, str]]:
    """Three styles, two objects, one seed. The judge reads ink as neon, and the dog as a cat where the style is ink."""
    found = []
    for style in ("neon", "ink", "photo"):
        for kind in ("cat", "dog"):
            read = {"style": "neon" if style == "ink" else style, "object": "cat" if style == "ink" else kind}
            p = {
                domain: "0.250000" if read[domain] != own else "0.900000"
                for domain, own in (("style", style), ("object", kind))
            }
            row = {"file": f"{style}{kind}", "seed": "1", "style": style, "object": kind}
            found.append(row | {f"{d}_predicted": read[d] for d in read} | {f"{d}_probability": p[d] for d in p})
    return found


def test_what_is_near_and_what_was_never_shown_is_told_apart() -> None:
    request = Request("neon", "photo", "style")
    found = kept(rows(), request, ["ink"], {"neon", "photo", "cat"}, shared=True)
    values = {key: metric["value"] for key, metric in found.items() if not key.endswith("_p")}
    assert values == {"ira_near": 0.0, "ira_seen": 1.0, "ira_unseen": 0.0, "cra_seen": 1.0, "cra_unseen": 0.5}
    assert found["ira_near"]["of"] == ["ink"] and found["ira_near_p"]["value"] == pytest.approx(0.25)
    assert found["cra_unseen"]["n"] == 2 and found["cra_unseen_p"]["value"] == pytest.approx((0.25 + 0.9) / 2)
    assert set(kept(rows(), request, ["ink"], None, shared=True)) == {"ira_near", "ira_near_p"}
    assert harder(found) == ["ira_near", "ira_seen", "ira_unseen", "cra_seen", "cra_unseen"]


def test_every_share_has_a_twin_where_the_probabilities_are_known() -> None:
    found = scores(rows(), "neon", "style", ["style", "object"])
    assert found["ua_p"]["value"] == pytest.approx(0.1) and found["ua"]["value"] == 0  # of not being the target
    assert found["ira_p"]["value"] == pytest.approx((2 * 0.25 + 2 * 0.9) / 4)
    assert found["cra_p"]["value"] == pytest.approx((0.9 + 0.25 + 0.9 + 0.9) / 4)
    assert twins(found) == ["ua_p", "ira_p", "cra_p", "cra_target_p"] and about("ua_p").heading == "UA p ↑"
    without = [{key: text for key, text in row.items() if not key.endswith("_probability")} for row in rows()]
    assert not twins(scores(without, "neon", "style", ["style", "object"]))
    assert set(told("ua", [Hit(("a",), "1", True)])) == {"ua"}


def test_the_interval_of_probabilities_is_never_wider_and_covers_what_it_says() -> None:
    rng, cells, seeds = np.random.default_rng(0), np.repeat(np.arange(16), 5), np.tile(np.arange(5), 16)
    for middle, (seed, cell) in ((1.2, (0.0, 0.0)), (1.2, (0.3, 0.2)), (2.5, (0.3, 0.0))):
        shared = np.sqrt(seed) * rng.standard_normal((600, 1, 5)) + np.sqrt(cell) * rng.standard_normal((600, 16, 1))
        own = np.sqrt(1 - seed - cell) * rng.standard_normal((600, 16, 5))
        p, truth = norm.cdf(middle + shared + own).reshape(600, -1), norm.cdf(middle / np.sqrt(2))
        _, low, high = interval(p, cells, seeds, graded=True)
        assert np.mean((low <= truth) & (truth <= high)) >= 0.93, (middle, seed, cell)
        counted = interval(p, cells, seeds)
        assert (low >= counted[1] - 1e-9).all() and (high <= counted[2] + 1e-9).all()
        assert (high - low).mean() < 0.85 * (counted[2] - counted[1]).mean()
    sure = share([Hit((str(c),), str(s), True, 0.9999) for c in range(8) for s in range(5)], graded=True)
    assert sure["low"] <= wilson(0.9999, 40)[0]  # forty that agree are no proof that none is otherwise


def test_a_run_says_what_is_near_and_a_share_that_leaves_nothing_is_refused(
    dataset: Canvas, model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
    benchmark = Benchmark(dataset, judges, Protocol("p", [1], fid=[], judge_floor=0), tmp_path / "cache")
    request = Request.of(dataset, "neon_glow", None)
    meter = TargetMeter(benchmark, request, 0.5)
    answers = meter.base(model, "0" * 64)
    results = meter.results(answers, answers)
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "look", None)  # the base's images were looked at for the results
        near = look_alikes(benchmark, answers.grid, request)
    assert results["metrics"] == results["base"] and results["metrics"]["ira_near"]["of"] == near
    assert len(set(near) - {"neon_glow"}) == 2 and set(near) < set(dataset.domains["style"])
    n = {
        key: results["metrics"][key]["n"] for key in ("ira", "ira_seen", "ira_unseen", "cra", "cra_seen", "cra_unseen")
    }
    assert n["ira"] == n["ira_seen"] + n["ira_unseen"] and n["cra"] == n["cra_seen"] + n["cra_unseen"]
    assert n["ira_unseen"] and n["cra_unseen"] and meter.cost(answers).keys() == {"generate_s", "judge_s"}
    cost = {"locate_s": 1, "distil_s": 2, "generate_s": 3, "judge_s": 4, "adapter_bytes": 1000}
    whole = {**results, "method": "fade", "cost": cost, "sparsity": {"kind": "neuron", "p": 0.1, "density": 0.1}}
    said = run_table(Run(tmp_path, whole))
    asked = f"of its two nearest look-alikes, read right: {words(near[0])}, {words(near[1])}"
    assert asked in said and "IRA unseen ↑" in said
    with pytest.raises(BadInput, match=r"pairs\.seen=0\.01 leaves no style"):
        TargetMeter(benchmark, request, 0.01)
