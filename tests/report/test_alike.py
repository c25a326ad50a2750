"""The order of a heat map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finished import OBJECTS, finished, illustrated
from safetensors.numpy import save_file

from benchmarks.measure.predictions import read_rows
from benchmarks.record.results import read
from benchmarks.report.alike import by_likeness, means, ordered
from benchmarks.report.figures import moved


def test_what_is_alike_stands_beside_each_other() -> None:
    line = {"d": 0.0, "b": 1.0, "a": 2.5, "e": 6.0, "c": 7.0}
    names = sorted(line)
    found = ordered(np.array([[line[name], 1.0] for name in names]), names)
    assert found in (["c", "e", "a", "b", "d"], ["d", "b", "a", "e", "c"]) and found[0] < found[-1]
    assert ordered(None, names) == names and ordered(np.zeros((2, 1)), names[:2]) == names[:2]


def test_the_heat_map_is_ordered_by_what_the_base_draws_of_each(tmp_path: Path) -> None:
    finished(tmp_path / "runs" / "a", "dog")
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    (run,), _ = read([tmp_path / "runs"])
    assert by_likeness([run], "object", OBJECTS) == OBJECTS  # no features: as they came
    rows = read_rows(tmp_path / "cache" / "base" / "predictions.csv")
    place = {"cat": 0.0, "dog": 9.0, "fish": 1.0}
    features = np.array([[place[row["object"]], k % 2] for k, row in enumerate(rows)], dtype=np.float32)
    save_file({"features": features}, tmp_path / "cache" / "base" / "features-judge.safetensors")
    found = means(run, "object", OBJECTS)
    assert found is not None and found[:, 0] == pytest.approx([0.0, 9.0, 1.0])
    cells = next(figure.cells for figure in moved([run], {}) if figure.name.endswith("object"))
    assert cells and cells.columns == ["cat", "fish", "dog"]
    assert [cell.own for cell in cells.rows[0][2] if cell] == [False, False, True]


def test_settings_stand_beside_each_other_by_what_they_leave_of_others(tmp_path: Path) -> None:
    """Two settings, two targets each: a concept's row counts the images of the runs that forgot another."""
    for kind, target, seed in (("neuron", "dog", 1), ("neuron", "cat", 2), ("weight", "dog", 3), ("weight", "fish", 4)):
        finished(tmp_path / "runs" / f"{kind}-{target}", target, kind, seed=seed)
    runs, _ = read([tmp_path / "runs"])
    names = {run.folder: run.folder.name for run in runs}
    overview, *each = moved(runs, names)
    assert overview.cells and overview.cells.apart and len(each) == 2
    assert not any(figure.cells.apart for figure in each if figure.cells)
    found = {name: (images, cells) for name, images, cells in overview.cells.rows}
    for (images, cells), kind in zip(found.values(), found, strict=True):
        own = [run for run in runs if run.folder.name in images]
        assert {run.folder.name.partition("-")[0] for run in own} == {kind}
        for concept, cell in zip(overview.cells.columns, cells, strict=True):
            rows = [row for run in own if run.target != concept for row in run.predictions if row["object"] == concept]
            right = sum(row["object_predicted"] == concept for row in rows)
            assert cell and not cell.own and cell.value == pytest.approx(100 * right / len(rows))
    means = [np.mean([cell.value for cell in cells if cell]) for _, cells in found.values()]
    assert means[0] > means[1] and set(found) == {"neuron", "weight"}
    assert len(moved([run for run in runs if "neuron" in run.folder.name], {})) == 1  # of one setting its own map alone
    for run in runs[:3]:
        illustrated(run.folder, tmp_path / "cache")
    asked = [run for run in read([tmp_path / "runs"])[0] if run.target != "fish"]
    (base, images, cells), *settings = next(figure.cells.rows for figure in moved(asked, names) if figure.cells)
    assert base == "base (nothing done)" and images == [] and len(settings) == 2
    assert [cell.value for cell in cells if cell] == [100] * 3
