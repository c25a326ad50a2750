"""Charts of what is wrong: their numbers by hand, what they leave out, and that none shows one mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from benchmarks.record.results import Run
from benchmarks.report.errors import beside, differences, forest, tradeoffs, unbeaten, wrong
from benchmarks.report.figures import Figure
from benchmarks.report.tables import mean_of

DOMAINS = {"neon": "style", "glass": "style", "cat": "object", "dog": "object", "fish": "object", "ink": "style"}
EIGHT = DOMAINS | {"bird": "object", "oil": "style"}


def share(value: float, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": n}


def run(method: str, target: str, ua: float, kept: float = 1.0, seed: int = 0, images: int = 188) -> Run:
    results = {
        "dataset": "canvas",
        "protocol": "default",
        "method": method,
        "target": target,
        "domain": EIGHT[target],
        "surrogate": "photo",
        "metrics": {"ua": share(ua), "ira": share(kept), "cra": share(kept)},
        "base": {},
        "cost": {"locate_s": 1.0, "distil_s": 3.0},
        "seeds": {"train": seed, "images": [images]},
        "overrides": [],
    }
    return Run(Path(f"{method}-{target}-{seed}-{images}"), results)


def drawn(figure: Figure, has: str) -> list[dict[str, Any]]:
    """The rows, of those that the figure is drawn from, that have a field."""
    parts = [figure.spec, *figure.spec["layer"]]
    tables = [part["data"]["values"] for part in parts if "values" in part.get("data", {})]
    return next(rows for rows in tables if has in rows[0])


def test_a_share_as_an_error() -> None:
    assert wrong({"value": 0.99, "low": 0.9, "high": 1.0}) == pytest.approx({"value": 1.0, "low": 0.0, "high": 10.0})
    assert wrong({"value": 1.0}) == {"value": 0.0}


def test_that_runs_are_alike_makes_no_interval_narrower_than_their_images() -> None:
    alike = [run("fade", "neon", 1.0), run("fade", "cat", 1.0)]
    assert mean_of(alike, "ua") == pytest.approx({"value": 1.0, "low": 1 - 0.1 / np.sqrt(2), "high": 1.0})
    nearly = [run("fade", "neon", 1.0), run("fade", "cat", 0.9999)]
    low = mean_of(nearly, "ua")["low"]  # type: ignore[index]
    assert low == pytest.approx(0.99995 - 0.1 / np.sqrt(2))
    apart = mean_of([run("fade", "neon", 1.0), run("fade", "cat", 0.9)], "ua")
    assert apart and apart["low"] == pytest.approx(0.95 - t.ppf(0.975, 1) * np.std([1, 0.9], ddof=1) / np.sqrt(2))
    assert mean_of(alike[:1], "ua") == {key: alike[0].metrics["ua"][key] for key in ("value", "low", "high")}


def test_the_forest_has_a_row_a_setting_or_a_target_the_best_first_and_none_of_one() -> None:
    runs = [run(m, target, ua) for m, ua in (("uce", 0.8), ("fade", 0.95)) for target in ("neon", "cat")]
    (figure,) = forest(runs)
    marks = [row for row in drawn(figure, "series") if row["series"].startswith("not gone")]
    assert [row["name"] for row in marks] == ["fade (2 runs)", "uce (2 runs)"]
    assert [row["value"] for row in marks] == pytest.approx([5.0, 20.0])
    (figure,) = forest([run("fade", "neon", 0.9), run("fade", "cat", 1.0)])
    assert {row["name"] for row in drawn(figure, "series")} == {"neon (1 run)", "cat (1 run)"}
    assert forest([run("fade", "neon", 0.9)]) == forest([run("fade", "neon", 0.9, seed=s) for s in (0, 1)]) == []
    assert tradeoffs([run("fade", "neon", 0.9, seed=seed) for seed in (0, 1)]) == []


def test_zero_errors_have_a_place_on_the_scale_and_what_lies_at_99_is_apart() -> None:
    (figure,) = forest([run("fade", "neon", 1.0, 0.99), run("fade", "cat", 0.9, 0.999)])
    scale = next(layer["encoding"]["x"]["scale"] for layer in figure.spec["layer"] if "scale" in layer["encoding"]["x"])
    low, top = scale["domain"]

    def place(value: float) -> float:
        """d3's symlog (Webber 2013), as a share of the axis."""
        at = [np.sign(v) * np.log1p(abs(v / scale["constant"])) for v in (low, value, top)]
        return float((at[1] - at[0]) / (at[2] - at[0]))

    assert scale["type"] == "symlog" and low < 0 and 0 < place(0) < 0.1
    assert place(1) - place(0.1) > 0.15  # 99.9 and 99.0
    assert {row["value"] for row in drawn(figure, "series") if row["series"].startswith("not gone")} >= {0.0}


def test_what_nothing_beats() -> None:
    assert unbeaten([0, 1, 1, 2, 0], [3, 1, 2, 0, 3]) == [True, True, False, True, True]
    runs = [run(m, "neon", ua, kept) for m, ua, kept in (("fade", 1.0, 0.9), ("uce", 0.9, 1.0), ("esd", 0.8, 0.8))]
    figure = tradeoffs(runs)[0]
    found = {row["series"]: (row["ua"], row["kept"], row["first"]) for row in drawn(figure, "first")}
    assert [figure.name for figure in tradeoffs(runs)] == ["ua-retention", "ua-seconds", "kept-seconds"]
    others = [Run(r.folder, {**r.results, "cost": {"judge_s": 1.0}}) for r in runs]  # nobody knows how long they took
    assert [figure.name for figure in tradeoffs(others)] == ["ua-retention"]
    assert found["fade"] == pytest.approx((0.0, 10.0, True)) and found["esd"] == pytest.approx((20.0, 20.0, False))


def test_differences_are_against_fade_over_targets_and_say_what_is_decided() -> None:
    targets = list(DOMAINS)
    runs = [run("fade", target, 0.9) for target in targets]
    runs += [run("uce", target, 0.6 + 0.01 * k) for k, target in enumerate(targets)]
    runs += [run("esd", target, 0.9 + 0.05 * (-1) ** k) for k, target in enumerate(targets)]
    strangers = [run("uce", "neon", 0.0, images=7)]
    assert beside([*runs, *strangers])[1] == runs and "fade" in beside(runs)[0]
    (figure,) = differences([*runs, *strangers])
    found = {row["name"]: row for row in drawn(figure, "told")}
    assert [row["name"] for row in drawn(figure, "told")] == ["esd (6 targets)", "uce (6 targets)"]
    gaps = np.array([100 * (0.6 + 0.01 * k - 0.9) / 3 for k in range(6)])
    style, other = (gaps[[k for k, t_ in enumerate(targets) if DOMAINS[t_] == d]] for d in ("style", "object"))
    mean = (style.mean() + other.mean()) / 2
    half = t.ppf(0.975, 4) * np.sqrt(style.var(ddof=1) / 3 + other.var(ddof=1) / 3) / 2
    uce = found["uce (6 targets)"]
    assert (uce["value"], uce["low"], uce["high"]) == pytest.approx((mean, mean - half, mean + half))
    assert uce["p"] == pytest.approx(2 * 2 / 2**6) and uce["told"] == "not decided"  # two settings, Holm
    assert found["esd (6 targets)"]["told"] == "not decided"
    assert differences(runs[:12]) == []  # one difference is a line of a table


def test_a_difference_is_decided_where_eight_targets_agree(tmp_path: Path) -> None:
    runs = [run(m, target, ua) for m, ua in (("fade", 0.9), ("uce", 0.6), ("esd", 0.9)) for target in EIGHT]
    (figure,) = differences(runs)
    found = {row["name"]: row for row in drawn(figure, "told")}
    assert found["uce (8 targets)"]["told"] == "worse" and "-10.00 worse" in found["uce (8 targets)"]["text"]
    assert "low" not in found["uce (8 targets)"]  # all eight alike: no interval, and none is drawn
    figure.save(tmp_path)
    assert (tmp_path / "differences.pdf").read_bytes().startswith(b"%PDF") and b"worse" in (
        tmp_path / "differences.svg"
    ).read_bytes()
