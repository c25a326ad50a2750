"""The gate of a grid: what the look-alikes lost that the retain set never showed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure.predictions import Row
from benchmarks.record.results import Run
from benchmarks.studies.entangled import loss_of, right

LABELS = ["photo", "ink_sketch", "lead_sketch", "dot_print", "line_print", "oil_paint", "neon_glow", "neon_lines"]


class Finished(Run):
    """A run whose predictions are given, not read."""

    given: list[Row]

    @property
    def predictions(self) -> list[Row]:  # type: ignore[override]
        return self.given


def rows(wrong: dict[str, str]) -> list[Row]:
    return [{"style": label, "style_predicted": wrong.get(label, label)} for label in LABELS]


def finished(target: str, wrong: dict[str, str], seen: str) -> Finished:
    results: dict[str, Any] = {
        "domain": "style",
        "target": target,
        "surrogate": "photo",
        "overrides": [f"pairs.seen={seen}"],
    }
    run = Finished(Path(), results)
    object.__setattr__(run, "given", rows(wrong))
    return run


def test_only_what_was_never_shown_counts() -> None:
    loss = loss_of(finished("ink_sketch", {"ink_sketch": "photo", "lead_sketch": "photo"}, "0.17"), rows({}))
    assert loss is not None and loss.near == ["lead_sketch"]
    assert (loss.points, loss.near_base, loss.other_base, loss.other_after) == (100, 1, 1, 1)


def test_a_run_that_showed_every_look_alike_says_nothing() -> None:
    assert loss_of(finished("ink_sketch", {}, "1"), rows({})) is None


@pytest.mark.parametrize(("concepts", "share"), [(["photo"], 1.0), (["photo", "oil_paint"], 0.5)])
def test_the_share_that_is_read_right(concepts: list[str], share: float) -> None:
    assert right(rows({"oil_paint": "photo"}), "style", concepts) == share
