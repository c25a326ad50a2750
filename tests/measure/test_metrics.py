"""The meter, against tables computed by hand and against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import norm, t

from benchmarks.measure.metrics import FEW, LEAST, Hit, frechet, interval, kernel, landed, scores, share
from benchmarks.record.results import Run
from benchmarks.report.tables import mean_value
from fade.data.pairs import Request
from fade.intervals import wilson
from fade.metrics import cell_text

STYLES, OBJECTS = ("neon", "photo", "sketch"), ("cat", "dog")


def table() -> list[dict[str, str]]:
    """Two seeds a cell. neon is read as photo but once, one sketch dog as photo, one neon and one photo dog as cat."""
    rows = [
        {"style": s, "object": o, "seed": seed, "style_predicted": s, "object_predicted": o}
        for s in STYLES
        for o in OBJECTS
        for seed in ("1", "2")
    ]
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
    assert landed(table(), Request("neon", "photo", "style")) == {"photo": 3, "neon": 1}


def test_an_object_by_hand() -> None:
    found = scores(table(), "dog", "object", ["style", "object"])
    assert found["ua"]["value"] == pytest.approx(2 / 6)
    assert found["ira"]["value"] == 1.0
    assert found["cra"]["value"] == pytest.approx(
        5 / 6
    )  # cats: one of six is not read as its style? neon cat 2 is photo
    assert found["cra_target"]["value"] == pytest.approx(3 / 6)


def test_one_domain_has_no_cra() -> None:
    assert set(scores(table(), "dog", "object", ["object"])) == {"ua", "ira"}


def test_wilsons_interval_is_the_textbooks() -> None:
    n, p, z = 40, 38 / 40, 1.959963984540054
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    assert wilson(38 / 40, 40) == pytest.approx((middle - half, middle + half))
    assert wilson(1.0, 40) == pytest.approx((40 / (40 + z * z), 1.0)) and wilson(0.0, 40)[0] == 0


def images(right: np.ndarray, own_noise: bool = False) -> list[Hit]:
    """Of a table (cells, seeds) of successes; own_noise: no two images begin with one latent."""
    return [Hit((str(c),), f"{s} {c}" if own_noise else str(s), bool(right[c, s])) for c, s in np.ndindex(right.shape)]


def grid(cells: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell and the seed of each image of a whole grid."""
    return np.repeat(np.arange(cells), seeds), np.tile(np.arange(seeds), cells)


@pytest.mark.parametrize("own_noise", [False, True])
def test_the_interval_by_hand(own_noise: bool) -> None:
    """One seed of four is bad in three cells of four, and one cell is bad besides: the spread of the means, by analysis
    of variance, over what independent images would have; then Wilson's formula."""
    right = np.ones((4, 4))
    right[:3, 0] = right[3, 1:3] = 0
    p, alone = right.mean(), right.var(ddof=1)
    seeds, cells = 4 * right.mean(0).var(ddof=1) / alone, 4 * right.mean(1).var(ddof=1) / alone
    assert seeds > 1 + LEAST * np.sqrt(3) and cells < 1
    squared = norm.ppf(0.975) ** 2 + (0 if own_noise else FEW * (seeds - 1) * t(4).ppf(0.975) ** 2)
    found = share(images(right, own_noise))
    assert (found["value"], found["n"]) == (11 / 16, 16)
    assert (found["low"], found["high"]) == pytest.approx(wilson(p, 16, squared))
    shared = share(
        images(right.T)
    )  # the cells' own spread counts as the seeds' does, and seeds count for a little always
    squared = norm.ppf(0.975) ** 2 + FEW * t(4).ppf(0.975) ** 2 * (seeds - 1 + LEAST * np.sqrt(3))
    assert (shared["low"], shared["high"]) == pytest.approx(wilson(p, 16, squared))


@pytest.mark.parametrize(("cells", "seeds"), [(8, 5), (64, 5), (8, 2), (8, 1), (1, 20)])
def test_a_failure_never_raises_the_lower_end_above_that_of_none(cells: int, seeds: int) -> None:
    places, n = grid(cells, seeds), cells * seeds
    once = interval(1 - np.eye(n), *places)[1]  # one failure, at each place in turn
    none = interval(np.ones(n), *places)[1]
    assert (once < none).all() and none <= wilson(1.0, n)[0]
    spread = np.ones((n, n))  # more and more failures, a new seed and a new cell each time
    order = np.lexsort((places[0], (places[1] - places[0]) % seeds))
    for k in range(n):
        spread[k:, order[k]] = 0
    assert (np.diff(interval(spread, *places)[1]) <= 1e-12)[: min(cells, n // 2)].all()
    clumped = np.ones((seeds, n))  # whole seeds fail
    for s in range(seeds):
        clumped[s, places[1] <= s] = 0
    assert (interval(clumped, *places)[1] < none).all()


def test_few_seeds_and_one_cell() -> None:
    assert share(images(np.ones((1, 20))))["low"] == pytest.approx(
        wilson(1.0, 20)[0]
    )  # one class, its images independent
    lows = [share(images(np.ones((8, seeds))))["low"] for seeds in (1, 2, 5)]
    assert 0.3 < lows[0] < lows[1] < lows[2] < wilson(1.0, 40)[0]  # one seed says least, but something
    assert share(images(np.ones((8, 5)), own_noise=True))["low"] == pytest.approx(wilson(1.0, 40)[0])
    uneven = [Hit(("a",), "1", True), Hit(("a",), "2", False), Hit(("b",), "1", True)]  # a part of the grid
    assert share(uneven)["value"] == 0.75


def drawn(rng: np.random.Generator, size: tuple[int, int, int], p: float, seed: float, cell: float) -> np.ndarray:
    """(times, images) successes of a probit model: shares of the variance that seeds and cells have in common."""
    times, cells, seeds = size
    shared = np.sqrt(seed) * rng.standard_normal((times, 1, seeds)) + np.sqrt(cell) * rng.standard_normal(
        (times, cells, 1)
    )
    own = np.sqrt(1 - seed - cell) * rng.standard_normal(size)
    return (norm.ppf(p) + shared + own > 0).reshape(times, -1).astype(float)


@pytest.mark.parametrize(("cells", "seeds"), [(8, 5), (64, 5), (8, 2)])
def test_the_interval_covers_what_it_says_though_images_share_their_noise(cells: int, seeds: int) -> None:
    rng, places = np.random.default_rng(0), grid(cells, seeds)
    for p in (0.8, 0.95):
        for seed, cell in ((0.0, 0.0), (0.1, 0.0), (0.3, 0.0), (0.3, 0.2)):
            right = drawn(rng, (1000, cells, seeds), p, seed, cell)
            value, low, high = interval(right, *places)
            assert np.mean((low <= p) & (p <= high)) >= 0.93, (p, seed, cell)
            if seed == cell == 0:  # and it is of use: at most twice Wilson's, which knows that there is nothing to see
                alone = np.subtract(*wilson(value, cells * seeds)[::-1])
                assert (high - low).mean() < 2.1 * alone.mean()


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
        ("Crayon", "Cats"): (1, 4),
        ("Crayon", "Dogs"): (0, 3),
        ("Monet", "Cats"): (4, 2),
        ("Monet", "Dogs"): (3, 4),
        ("Seed_Images", "Cats"): (2, 1),
        ("Seed_Images", "Dogs"): (0, 0),
    }
    return [
        {
            "style": s,
            "object": o,
            "seed": str(k),
            "style_predicted": s if k < a else "Winter",
            "object_predicted": o if k < b else "Sea",
        }
        for (s, o), (a, b) in right.items()
        for k in range(4)
    ]


@pytest.mark.parametrize(
    ("reading", "target", "ua", "ira", "cra"),
    [
        # target Crayon: UA = 1 - 1/8; IRA over Monet (7/8), with Seed_Images (7 + 2)/16; CRA over what each reading
        # keeps
        ("retained", "Crayon", 7 / 8, 9 / 16, (2 + 4 + 1 + 0) / 16),
        ("authors", "Crayon", 7 / 8, 7 / 8, (4 + 3 + 2 + 4 + 1 + 0) / 24),
        ("saeuron", "Crayon", 7 / 8, 7 / 8, (4 + 3 + 2 + 4) / 16),
        ("code", "Crayon", 7 / 8, 9 / 16, (4 + 3 + 2 + 4 + 1 + 0) / 24),
        # target Cats: acc_object over the styles that count; CRA of styles, with or without Seed_Images and the
        # target's cells
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


def test_a_distance_without_a_value_says_why_and_a_kernel_distance_is_shown_in_thousandths() -> None:
    none = {"value": None, "why": "64 images for 192 features: the Fréchet distance needs more", "n": 64}
    assert cell_text(none, "fid_judge") == "– (64 images for 192 features)" and cell_text(None) == "–"
    assert cell_text({"value": -0.00523, "std": 1.0, "n": 9}, "kid_judge") == "-5.23"
    assert cell_text({"value": 2.0}, "fid_judge") == "2.00"
    runs = [Run(Path(), {"metrics": {"fid_judge": none, "kid_judge": {"value": v}}}) for v in (0.001, 0.003)]
    assert [mean_value(runs, key) for key in ("fid_judge", "kid_judge", "fid_x")] == [
        "– (64 images for 192 features)",
        "2.00",
        "–",
    ]


def test_the_kernel_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(150, 8, generator=generator), torch.randn(150, 8, generator=generator)
    assert abs(kernel(a, b)["value"]) < 0.05 * kernel(a, b + 1)["value"]
    found, _ = kernel(a, b), torch.rand(1)  # whatever was drawn between
    assert kernel(a, b) == found
