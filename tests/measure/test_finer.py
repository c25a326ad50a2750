"""One style with one object as the target: by hand, as a request, and through the meter."""

from __future__ import annotations

from pathlib import Path

import pytest
from judging import judge

from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.finer import finer
from benchmarks.measure.target import TargetMeter
from benchmarks.record.results import Run
from benchmarks.report.tables import run_table
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.metrics import harder
from fade.models import Diffusion


def rows(domain: str) -> tuple[list[dict[str, str]], Request]:
    """neon with cat is the pair. Its image is read as a neon dog; every other neon one as photo, every cat as a dog."""
    found = []
    for style in ("neon_glow", "ink", "photo"):
        for kind in ("house_cat", "dog", "sea_fish"):
            row = {"file": f"{style}{kind}", "seed": "1", "style": style, "object": kind}
            pair = (style, kind) == ("neon_glow", "house_cat")
            row["style_predicted"] = "photo" if style == "neon_glow" and not pair else style
            row["object_predicted"] = "dog" if kind == "house_cat" else kind
            found.append(row | {"style_probability": "0.500000", "object_probability": "0.800000"})
    if domain == "object":
        return found, Request("house_cat", "dog", "object", ("style", "neon_glow"))
    return found, Request("neon_glow", "photo", "style", ("object", "house_cat"))


@pytest.mark.parametrize("domain", ["style", "object"])
def test_the_pair_is_gone_and_each_of_the_two_is_kept_or_not_by_hand(domain: str) -> None:
    found = finer(*rows(domain), ["style", "object"])
    values = {key: metric["value"] for key, metric in found.items() if not key.endswith("_p")}
    style, thing = (9 - 1 - 2) / 8, (9 - 1 - 2) / 8  # two neon ones are read as photo, two cats as dogs, of eight
    assert values == {"ua": 1, "ira": style, "cra": thing, "sc": 0, "oc": 0, "up": 1}
    assert {key: found[key]["n"] for key in ("ua", "ira", "sc", "oc", "up")} == {
        "ua": 1,
        "ira": 8,
        "sc": 2,
        "oc": 2,
        "up": 8,
    }
    assert found["ua_p"]["value"] == pytest.approx(1 - 0.5 * 0.8) and found["up_p"]["value"] == pytest.approx(0.65)
    assert harder(found) == ["sc", "oc", "up"]


def test_a_request_of_a_pair_forgets_one_cell_and_keeps_the_rest_of_both(dataset: Canvas, tmp_path: Path) -> None:
    request = Request.of(dataset, "house_cat", None, "neon_glow")
    pairs = Pairs(dataset, request, 3, 64, 2, tmp_path, seen=0.4)
    cells = dataset.cells()
    assert [tuple(cell.values()) for cell in cells if pairs.side(cell) == "forget"] == [("neon_glow", "house_cat")]
    assert pairs.side({"style": "photo", "object": "house_cat"}) is None or "photo" in pairs.seen
    assert pairs.side({"style": "neon_glow", "object": request.surrogate}) == "retain"
    assert pairs.captions("forget") == [
        ("A house cat image in neon glow style.", "A sea fish image in neon glow style.")
    ]
    with pytest.raises(
        BadInput, match=r"within is 'wild_cat', of the target's own domain \(object\); name one of another domain"
    ):
        Request.of(dataset, "house_cat", None, "wild_cat")
    with pytest.raises(BadInput, match="within 'lion' is no concept of this dataset"):
        Request.of(dataset, "house_cat", None, "lion")


def test_anchors_are_images_of_the_surrogate_within_the_pairs_style(
    dataset: Canvas, model: Diffusion, tmp_path: Path
) -> None:
    pairs = Pairs(dataset, Request.of(dataset, "house_cat", None, "neon_glow"), 3, 64, 2, tmp_path)
    pairs.prepare(model)
    cells = dataset.cells()
    assert {tuple(cells[row].values()) for _, row in pairs.anchors.tolist()} == {("neon_glow", "house_cat")}
    assert {cells[int(pairs.cells["retain"][k])]["style"] for k, _ in pairs.anchors.tolist()} == {"neon_glow"}


def test_a_share_that_leaves_the_pair_out_is_refused_and_what_was_not_asked_is_not_there(
    dataset: Canvas, tmp_path: Path
) -> None:
    judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
    benchmark = Benchmark(dataset, judges, Protocol("p", [1], fid=[], share=0.25), tmp_path)
    out = next(c for c in dataset.cells() if c not in [a.cell for a in benchmark.wanted] and c["style"] != "photo")
    with pytest.raises(BadInput, match=rf"share=0\.25 asks for no image of {out['object']} with {out['style']}; use"):
        TargetMeter(benchmark, Request.of(dataset, out["object"], None, out["style"]))
    pair, request = rows("object")
    only = [row for row in pair if request.concerns(row) or row["style"] == "ink" == row["style_predicted"]]
    assert set(finer(only, request, ["style", "object"])) & {"ua", "sc", "oc", "up"} == {"ua", "oc", "up"}


def test_the_meter_of_a_pair(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
    benchmark = Benchmark(dataset, judges, Protocol("p", [1, 2], fid=[], judge_floor=0), tmp_path / "cache")
    meter = TargetMeter(benchmark, Request.of(dataset, "house_cat", None, "neon_glow"))
    answers = meter.base(model, "0" * 64)
    results = meter.results(answers, answers)
    assert {key: results["metrics"][key]["n"] for key in ("ua", "sc", "oc", "up", "ira")} == {
        "ua": 2,
        "sc": 6,
        "oc": 6,
        "up": 2 * 2 * 9,
        "ira": 30,
    }
    assert (
        results["within"] == "neon_glow"
        and sum(results["landed"].values()) == 2
        and "cra_target" not in results["metrics"]
    )
    cost = {"locate_s": 1, "distil_s": 2, "generate_s": 3, "judge_s": 4, "adapter_bytes": 1000}
    whole = {**results, "method": "fade", "cost": cost, "sparsity": {"kind": "neuron", "p": 0.1, "density": 0.1}}
    assert "without house cat with neon glow" in run_table(Run(tmp_path, whole))
