"""Charts over what was swept and over requests: their intervals are those of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finished import finished

from benchmarks.record.results import read
from benchmarks.record.sequences import SequenceRun
from benchmarks.report.figures import Figure, over_requests, swept
from benchmarks.report.tables import mean_of


def rows(figure: Figure) -> list[dict[str, Any]]:
    """What a figure's marks are drawn from."""
    parts = [figure.spec, *figure.spec["layer"]]
    found: list[dict[str, Any]] = next(part["data"]["values"] for part in parts if "values" in part.get("data", {}))
    return found


def reach(figure: Figure) -> list[float]:
    """From where to where the axis on the left goes."""
    (found,) = {tuple(part["encoding"]["y"]["scale"]["domain"]) for part in figure.spec["layer"]}  # one for all
    return list(found)


def sequence(ends: dict[str, float]) -> SequenceRun:
    """Two requests, of which the first is half met."""
    share = {"value": 0.5, "n": 8} | ends
    step = {
        "ua": {"neon": share},
        "kept": {"style": share, "object": share},
        "retention": 0.5,
        "cost": {"train_s": 1.0},
    }
    told = {"method": "fade", "strategy": "stack", "requests": [{"target": "neon"}, {"target": "cat"}]}
    return SequenceRun(Path("a"), {**told, "steps": [step, step]})


def test_what_was_swept_has_the_intervals_of_its_runs(tmp_path: Path) -> None:
    for target in ("neon", "glass"):
        for p in (0.1, 0.5):
            finished(tmp_path / f"{target}-{p}", target, p=p, seed=len(target))
    runs = read([tmp_path])[0]
    found = {figure.name: figure for figure in swept(runs)}
    assert list(found) == ["ua-sparsity.p-style", "kept-sparsity.p-style"]
    figure = found["ua-sparsity.p-style"]
    wanted = mean_of([run for run in runs if run.sparsity["p"] == 0.1], "ua")
    first = next(row for row in rows(figure) if row["x"] == 0.1)
    assert wanted and {part: first[part] for part in wanted} == pytest.approx({k: 100 * v for k, v in wanted.items()})
    low, high = reach(figure)
    assert low <= first["low"] < first["value"] and first["high"] <= high  # the axis has room for them
    assert all({"low", "high"} <= set(row) for row in rows(found["kept-sparsity.p-style"]))


def test_a_sequence_has_its_intervals_where_it_has_them() -> None:
    for figure in over_requests([sequence({"low": 0.3, "high": 0.7})]):
        assert [(row["low"], row["value"], row["high"]) for row in rows(figure)] == [pytest.approx((30, 50, 70))] * 2
        assert reach(figure)[0] < 30 and reach(figure)[1] > 70
    for figure in over_requests([sequence({})]):
        assert [row["value"] for row in rows(figure)] == [50, 50] and not any("low" in row for row in rows(figure))
