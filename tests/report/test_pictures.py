"""The picture of a run: which columns it has."""

from __future__ import annotations

from benchmarks.report.pictures import COLUMNS, fullest


def test_the_columns_are_those_with_most_images_in_their_order() -> None:
    names = [f"o{k}" for k in range(COLUMNS + 3)]
    there = {("target", name) for name in names} | {("kept", name) for name in names[-4:]} | {("near", names[5])}
    assert fullest(names, ["target", "kept", "near"], there) == [*names[:6], *names[-4:]]
    assert fullest(names[:3], ["target"], set()) == names[:3]
