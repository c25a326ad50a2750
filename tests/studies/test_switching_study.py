"""Prompts switched on a tiny model: what is read, what is kept, and the windows of the curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from judging import judge

from benchmarks.studies import switching
from benchmarks.studies.switching import Curve, said, study, tables
from fade.data.canvas.dataset import Canvas
from fade.models import Diffusion, Noise

RISING = Curve("neon_glow", "target first", [0, 0, 0.5, 1, 1], [0, 0.2, 0.6, 0.7, 1], [999, 749, 499, 249], 1000, 4)


def test_a_curve_says_in_which_times_it_goes_from_one_end_to_the_other() -> None:
    assert RISING.window(RISING.read) == (250, 750) and RISING.window(RISING.travelled) == (0, 1000)
    falling = replace(RISING, way="surrogate first", read=[1 - x for x in RISING.read])
    assert falling.window(falling.read) == (250, 750)
    never = replace(RISING, read=[0.0] * 5)
    assert never.window(never.read) is None and said(None) == "none" and said((250, 750)) == "250-750"


def test_a_stopped_study_goes_on_and_tells_both_ways(
    model: Diffusion, dataset: Canvas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges, made = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}, []
    original = switching.curve_of

    def counting(*given: object) -> Curve:
        made.append(given[4])
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(switching, "curve_of", counting)
    first = study(model, dataset, judges, ["neon_glow"], 2, tmp_path)
    again = study(model, dataset, judges, ["neon_glow", "house_cat"], 2, tmp_path)
    assert again[:2] == first and made == ["target first", "surrogate first"] * 2
    text = tables(again, tmp_path)
    assert text.count("house_cat") == 6 and (tmp_path / "windows.csv").is_file()


def test_the_ends_of_a_curve_are_what_the_model_draws_of_either_prompt(model: Diffusion, dataset: Canvas) -> None:
    """The judge reads the surrogate's images at one end and the target's at the other, and the two ways agree there."""
    reader = judge("style", dataset.domains["style"])
    request = switching.Request.of(dataset, "neon_glow", None)
    read: dict[str, list[float]] = {}
    for way in switching.WAYS:
        curve = switching.curve_of(model, dataset, {"style": reader}, request, way, 4, switching.SEED)
        assert (curve.n, len(curve.read), len(curve.times)) == (4, 3, 2)
        ends = [curve.travelled[0], curve.travelled[-1]]
        assert ends == pytest.approx([1, 0] if way == "surrogate first" else [0, 1], abs=1e-5)
        read[way] = curve.read
    assert read["target first"][0] == read["surrogate first"][-1]
    assert read["target first"][-1] == read["surrogate first"][0]
    cells = [cell for cell in dataset.cells() if request.concerns(cell)][:4]
    for caption, share in zip(
        ([dataset.caption(cell) for cell in cells], [dataset.caption(request.overwritten(cell)) for cell in cells]),
        (read["target first"][-1], read["target first"][0]),
        strict=True,
    ):
        images = model.generate(caption, [Noise(switching.SEED + i) for i in range(4)])
        with torch.no_grad():
            own = (reader.probabilities(images).argmax(1) == reader.labels.index("neon_glow")).float().mean()
        assert float(own) == share
