"""A part of the grid, and what it says of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure.answers import kept_cells
from benchmarks.studies.coverage import Design, coverage, estimate, load
from fade.errors import BadInput


def test_a_balanced_part_of_the_grid() -> None:
    for sizes in ([9, 8], [51, 20], [10]):
        for share in (0.25, 0.5, 1.0):
            columns = int(np.prod(sizes[1:]))
            places = kept_cells(sizes, share, seed=3)
            rows = np.bincount([p // columns for p in places], minlength=sizes[0])
            filled = np.bincount([p % columns for p in places], minlength=columns)
            assert len(set(places)) == len(places) and np.ptp(rows) == 0 and np.ptp(filled) <= 1
    assert kept_cells([9, 8], 1.0) == list(range(72))
    with pytest.raises(BadInput, match=r"protocol\.share is 0"):
        kept_cells([9, 8], 0)


def test_the_interval_of_a_part_holds_the_whole(study: Path) -> None:
    groups = load([study])
    assert len(groups) == 6 and all(len(runs) == 2 for runs in groups.values())
    everything = [np.array([1.0, 0.6, 0.8]), np.array([0.4, 0.6, 0.6])]
    whole = estimate(everything, drawn=1.0, targets=2)
    assert whole["value"] == pytest.approx(2 / 3)
    for metric in ("ua", "ira"):
        found = coverage(groups, Design(1, 0.67, 1), metric, draws=60)
        assert found["coverage"] >= 0.95 and 0 < found["half"] < 0.5
