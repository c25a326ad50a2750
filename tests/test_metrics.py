"""The meter, against tables computed by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from benchmarks.metrics import frechet, kernel, landed, mean_over_cells, proportion, scores, wilson

STYLES, OBJECTS = ("neon", "photo", "sketch"), ("cat", "dog")


def table() -> list[dict[str, str]]:
    """Two seeds a cell. neon is read as photo but once, one sketch dog as photo, one neon and one photo dog as cat."""
    rows = [
        {"style": s, "object": o, "seed": seed, "style_predicted": s, "object_predicted": o}
        for s in STYLES for o in OBJECTS for seed in ("1", "2")
    ]  # fmt: skip
    for row in rows:
        if row["style"] == "neon" and (row["object"], row["seed"]) != ("cat", "1"):
            row["style_predicted"] = "photo"
        if (row["style"], row["object"], row["seed"]) == ("sketch", "dog", "1"):
            row["style_predicted"] = "photo"
        if row["style"] != "sketch" and row["object"] == "dog" and row["seed"] == "2":
            row["object_predicted"] = "cat"
    return rows


def test_a_style_by_hand() -> None:
    found = scores(table(), "neon", "style", ["style", "object"])
    assert found["ua"]["value"] == 3 / 4 and found["ua"]["n"] == 4
    assert found["ira"]["value"] == 7 / 8 and found["ira"]["n"] == 8
    assert found["cra"]["value"] == 7 / 8
    assert found["cra_target"]["value"] == 3 / 4
    assert scores(table(), "neon", "style", ["style", "object"], "code")["cra"]["value"] == pytest.approx(10 / 12)
    assert landed(table(), "neon", "style") == {"photo": 3, "neon": 1}


def test_an_object_by_hand() -> None:
    found = scores(table(), "dog", "object", ["style", "object"])
    assert found["ua"]["value"] == pytest.approx(2 / 6)
    assert found["ira"]["value"] == 1.0
    assert found["cra"]["value"] == pytest.approx(5 / 6)  # cats: one of six is not read as its style? neon cat 2 is photo
    assert found["cra_target"]["value"] == pytest.approx(3 / 6)


def test_one_domain_has_no_cra() -> None:
    assert set(scores(table(), "dog", "object", ["object"])) == {"ua", "ira"}


def test_wilsons_interval_is_the_textbooks() -> None:
    n, p, z = 40, 38 / 40, 1.959963984540054
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(38, 40) == pytest.approx((middle - half, middle + half))
    assert proportion([True] * 40)["high"] == 1.0 and proportion([True] * 40)["low"] < 0.92


def test_the_interval_of_a_mean_covers_it_and_is_repeatable() -> None:
    rng = np.random.default_rng(0)
    hits = {(str(i),): (rng.random(5) < 0.8).tolist() for i in range(64)}
    found = mean_over_cells(hits)
    assert found["low"] < found["value"] < found["high"] and found == mean_over_cells(hits)
    alike = mean_over_cells({(str(i),): [True] * 5 for i in range(8)})
    assert alike["value"] == 1.0 and alike["low"] == pytest.approx(wilson(40, 40)[0])


def test_frechet_agrees_with_scipy_and_is_zero_on_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 12, generator=generator), 1.3 * torch.randn(200, 12, generator=generator) + 0.2
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    x, y = a.double().numpy(), b.double().numpy()
    cx, cy = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * scipy.linalg.sqrtm(cx @ cy)).real
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ValueError, match="more images than features"):
        frechet(a[:10], b)


def canvas() -> list[dict[str, str]]:
    """Three styles (Seed_Images among them) x two objects, four images a cell, every count below chosen by hand."""
    right = {  # (style, object): (style read right, object read right), of four images
        ("Crayon", "Cats"): (1, 4), ("Crayon", "Dogs"): (0, 3),
        ("Monet", "Cats"): (4, 2), ("Monet", "Dogs"): (3, 4),
        ("Seed_Images", "Cats"): (2, 1), ("Seed_Images", "Dogs"): (0, 0),
    }  # fmt: skip
    return [
        {"style": s, "object": o, "style_predicted": s if k < a else "Winter", "object_predicted": o if k < b else "Sea"}
        for (s, o), (a, b) in right.items() for k in range(4)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reading", "target", "ua", "ira", "cra"),
    [
        # target Crayon: UA = 1 - 1/8; IRA over Monet (7/8), with Seed_Images (7 + 2)/16; CRA over what each reading keeps
        ("retained", "Crayon", 7 / 8, 9 / 16, (2 + 4 + 1 + 0) / 16),
        ("authors", "Crayon", 7 / 8, 7 / 8, (4 + 3 + 2 + 4 + 1 + 0) / 24),
        ("saeuron", "Crayon", 7 / 8, 7 / 8, (4 + 3 + 2 + 4) / 16),
        ("code", "Crayon", 7 / 8, 9 / 16, (4 + 3 + 2 + 4 + 1 + 0) / 24),
        # target Cats: acc_object over the styles that count; CRA of styles, with or without Seed_Images and the target's cells
        ("retained", "Cats", 1 - (4 + 2 + 1) / 12, (3 + 4 + 0) / 12, (0 + 3 + 0) / 12),
        ("authors", "Cats", 1 - (4 + 2 + 1) / 12, (3 + 4 + 0) / 12, (1 + 0 + 4 + 3) / 16),
        ("saeuron", "Cats", 1 - (4 + 2) / 8, (3 + 4) / 8, (1 + 0 + 4 + 3) / 16),
        ("code", "Cats", 1 - (4 + 2 + 1) / 12, (3 + 4 + 0) / 12, (1 + 0 + 4 + 3 + 2 + 0) / 24),
    ],
)
def test_the_published_readings_by_hand(reading: str, target: str, ua: float, ira: float, cra: float) -> None:
    domain = "style" if target == "Crayon" else "object"
    found = scores(canvas(), target, domain, ["style", "object"], reading, "Seed_Images")
    assert [found[k]["value"] for k in ("ua", "ira", "cra")] == pytest.approx([ua, ira, cra])


def test_the_kernel_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(150, 8, generator=generator), torch.randn(150, 8, generator=generator)
    assert abs(kernel(a, b)["value"]) < 0.05 * kernel(a, b + 1)["value"]
    assert kernel(a, b) == kernel(a, b)
