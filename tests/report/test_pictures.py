"""The picture of a run: which images it shows."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.measure.answers import Answer
from benchmarks.measure.answers import answers as asked_of
from benchmarks.report.page import RUNGS, shrunk
from benchmarks.report.pictures import COLUMNS, GAP, HEAD, LEFT, SIDE, comparison, spread
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Request
from fade.models import Noise


def answers(objects: int, seeds: int) -> list[Answer]:
    pairs = product(range(seeds), range(objects))
    return [Answer({"style": "neon", "object": f"o{k:02}"}, "", seed, Noise(seed)) for seed, k in pairs]


def test_many_cells_are_shown_from_first_to_last_and_few_of_several_seeds() -> None:
    shown = spread(answers(16, 2))
    names = [answer.cell["object"] for answer in shown]
    assert {answer.seed for answer in shown} == {0} and len(set(names)) == COLUMNS
    assert names == sorted(names) and names[0] == "o00" and names[-1] > "o13"
    few = answers(4, 5)
    assert spread(few) == few[:COLUMNS] and spread(few[:3]) == few[:3] and spread([]) == []


def test_nothing_is_left_out_between_two_images(dataset: Canvas, tmp_path: Path) -> None:
    """All of the target's cells and a part of the others: each line begins at the left and has no hole."""
    request = Request.of(dataset, "neon_glow", None)
    prompts = [dataset.caption(cell) for cell in dataset.cells()]
    asked = asked_of(dataset, prompts, [1, 2], "seed", share=0.5, whole=request.concerns)
    for folder, colour in (("base", (255, 0, 0)), ("run", (0, 0, 255))):
        (tmp_path / folder).mkdir()
        for answer in asked:
            Image.new("RGB", (32, 32), colour).save(tmp_path / folder / answer.file)
    comparison(tmp_path / "base", tmp_path / "run", asked, dataset, request, tmp_path / "picture.png", ["photo"])
    counts = [sum(answer.cell["style"] == style for answer in asked) for style in ("neon_glow", "photo")]
    assert counts == [8, 4]
    with Image.open(tmp_path / "picture.png") as sheet:
        for block, count in enumerate(counts):
            for line, colour in enumerate(((255, 0, 0), (0, 0, 255))):
                y = block * (HEAD + 2 * (SIDE + GAP) + 8) + HEAD + line * (SIDE + GAP) + SIDE // 2
                seen = [sheet.getpixel((LEFT + k * (SIDE + GAP) + SIDE // 2, y)) for k in range(counts[0])]
                assert seen == [colour] * count + [(255, 255, 255)] * (counts[0] - count)


@pytest.mark.parametrize("near", range(len(RUNGS)))
def test_a_picture_of_the_page_is_the_best_that_fits_wherever_one_begins_to_look(tmp_path: Path, near: int) -> None:
    Image.effect_noise((200, 150), 60).save(tmp_path / "a.png")
    for budget in (0, 1000, 2000, 4000, 10_000, 1_000_000):
        best = next((k for k in range(len(RUNGS)) if len(rung(tmp_path / "a.png", k)) <= budget), len(RUNGS) - 1)
        assert shrunk(tmp_path / "a.png", budget, near) == (rung(tmp_path / "a.png", best), best)


def rung(path: Path, place: int) -> bytes:
    side, quality = RUNGS[place]
    with Image.open(path) as file:
        image = file.convert("RGB")
    small = image.resize((round(image.width * side), round(image.height * side)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="webp", quality=quality)
    return buffer.getvalue()
