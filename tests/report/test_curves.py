"""Charts of how soon attacks bring a concept back: whose lines they hold, of which points, and that none is of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finished import finished

from benchmarks.record.results import Run, read
from benchmarks.report.__main__ import write
from benchmarks.report.curves import MOST, apart, curves
from benchmarks.report.figures import Figure
from fade.files import write_json
from fade.intervals import share_of

UNITS = (100, 200, 400)
BASE, ORACLE = (8, 8, 8), (0, 2, 5)


def over(rights: tuple[int, ...], n: int = 8) -> list[list[int]]:
    return [[units, right, n] for units, right in zip(UNITS, rights, strict=False)]


def attacked(folder: Path, method: str, rights: tuple[int, ...], attack: str = "relearn_5", **more: Any) -> None:
    """A finished run that an attack brought so many images back of, at each of its looks."""
    results = finished(folder, "neon")
    more_results = {"method": method, "overrides": [f"method={method}"], "seeds": {"train": 0}}
    write_json(folder / "results.json", {**results, **more_results})
    curve = {"base": over(BASE), "attacked": over(rights), "off": [[0, 0, 8]], "oracle": over(ORACLE)}
    row = {"attack": attack, "success": share_of(rights[-1], 8), "curves": curve, **more}
    write_json(folder / "attacks" / f"{attack}.json", row)


def runs(folder: Path) -> list[Run]:
    return read([folder])[0]


def points(figure: Figure) -> dict[str, list[dict[str, Any]]]:
    """The rows that the figure's lines are drawn from, by series."""
    parts = [figure.spec, *figure.spec["layer"]]
    rows = next(rows for part in parts if "units" in (rows := part.get("data", {}).get("values", [{}]))[0])
    return {name: [row for row in rows if row["series"] == name] for name in dict.fromkeys(r["series"] for r in rows)}


def test_a_curve_has_the_run_the_base_above_it_and_what_never_saw_it_beside_it(tmp_path: Path) -> None:
    attacked(tmp_path / "a", "fade", (0, 1, 4))
    (figure,) = curves(runs(tmp_path))
    found = points(figure)
    assert list(found) == ["fade", "base", "never saw it"] and figure.name == "attack-relearn_5-neon"
    assert [(row["units"], row["value"]) for row in found["fade"]] == [(100, 0.0), (200, 12.5), (400, 50.0)]
    last, wilson = found["never saw it"][-1], share_of(5, 8)
    assert (last["low"], last["high"]) == pytest.approx((100 * wilson["low"], 100 * wilson["high"]))
    assert "In the end: fade 50 %, base 100 %, never saw it 62 %." in figure.spec["description"]
    left = next(part["encoding"]["y"] for part in figure.spec["layer"] if "scale" in part["encoding"]["y"])
    assert left["scale"]["domain"] == [0, 100]


def test_runs_of_one_target_stand_in_one_chart_up_to_a_limit_that_is_said(tmp_path: Path) -> None:
    for k in range(MOST + 2):
        attacked(tmp_path / f"{k}", f"m{k}", (0, 0, k))
    (figure,) = curves(runs(tmp_path))
    assert list(points(figure)) == [*(f"m{k}" for k in range(2, MOST + 2)), "base", "never saw it"]
    assert "2 others, of which no more came back, are in the table alone" in figure.title


def test_other_budgets_and_other_attacks_stand_in_charts_of_their_own(tmp_path: Path) -> None:
    attacked(tmp_path / "a", "fade", (0, 1, 4))
    attacked(tmp_path / "a", "fade", (0, 1, 4), "prefix")
    longer = {"base": [[900, 8, 8]], "attacked": [[50, 0, 8], [900, 8, 8]], "never": [[50, 1, 8], [900, 2, 8]]}
    attacked(tmp_path / "b", "uce", (8,), curves=longer)
    found = {figure.name: list(points(figure)) for figure in curves(runs(tmp_path))}
    three = ["base", "never saw it"]
    assert found["attack-prefix-neon"] == ["fade", *three] and len(found) == 3
    both = [found["attack-relearn_5-neon"], found["attack-relearn_5-neon-2"]]
    assert sorted(both) == [["fade", *three], ["uce", "unseen concept"]]  # of one look at the base there is no line


@pytest.mark.parametrize("more", [{"void": True}, {"curves": {"attacked": [[0, 1, 8], [0, 2, 8]]}}, {"curves": {}}])
def test_what_is_void_and_what_searched_for_nothing_has_no_chart(tmp_path: Path, more: dict[str, Any]) -> None:
    attacked(tmp_path / "a", "fade", (0, 1, 4), **more)
    attacked(tmp_path / "b", "uce", (3,))  # one look is one point
    assert not [figure.name for figure in curves(runs(tmp_path))]


def test_curves_are_in_the_page_and_among_the_files(tmp_path: Path) -> None:
    attacked(tmp_path / "runs" / "a", "fade", (0, 1, 4))
    write([tmp_path / "runs"], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "How soon does it come back?" in html and "<summary>neon</summary>" in html
    made = [tmp_path / "out" / "figures" / f"attack-relearn_5-neon.{kind}" for kind in ("svg", "pdf", "png")]
    assert all(path.stat().st_size > 1000 for path in made) and "never saw it" in made[0].read_text()


def test_names_have_room_where_lines_end_together() -> None:
    assert apart([100, 60, 30], 7) == [100, 60, 30]
    assert apart([50, 50, 49], 7) == [50, 43, 36]
    assert apart([3, 0, 0, 0], 7) == [21, 14, 7, 0]
