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
