"""The picture of a run: the target and two look-alikes, before and after."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from fade.data.prompts import words
from fade.files import atomic

if TYPE_CHECKING:  # their modules import torch, which the report does without
    from benchmarks.measure.answers import Answer
    from fade.data.dataset import Dataset
    from fade.data.pairs import Request


COLUMNS = 10  # of a picture at most


def comparison(
    base: Path,
    run: Path,
    wanted: list[Answer],
    dataset: Dataset,
    request: Request,
    path: Path,
    kept: Sequence[str] = (),
    side: int = 96,
) -> None:
    """A picture: the target and what is to be kept, before and after, across the other domain (or the seeds).

    base, run: folders of images of the same answer set; a cell that the answer set leaves out stays white. kept:
    concepts of the target's domain; where none is named, the surrogate and another.
    """
    apart = [c for c in dataset.domains[request.domain] if c not in (request.target, request.surrogate)]
    shown = [request.target, *(kept or [request.surrogate, *apart[-1:]])]
    other = next((d for d in dataset.domains if d != request.domain), None)
    seeds = list(dict.fromkeys(str(answer.seed) for answer in wanted))
    first: dict[tuple[str, str], str] = {}
    for answer in wanted:
        key = (answer.cell[request.domain], answer.cell[other] if other else str(answer.seed))
        first.setdefault(key, answer.file)
    columns = fullest(dataset.domains[other] if other else seeds, shown, first)
    lines = [(concept, name, folder) for concept in shown for name, folder in (("before", base), ("after", run))]
    left, top = 150, 22
    sheet = Image.new("RGB", (left + len(columns) * (side + 4), top + len(lines) * (side + 4) + 16), "white")
    draw = ImageDraw.Draw(sheet)
    for i, column in enumerate(columns):
        draw.text((left + i * (side + 4) + 4, 5), words(column) if other else f"seed {column}", fill="black")
    for j, (concept, name, folder) in enumerate(lines):
        y = top + j * (side + 4) + 8 * (j // 2)
        draw.text(
            (6, y + side // 2 - 6),
            f"{words(concept)}, {name}",
            fill="black" if concept != request.target else "#b00020",
        )
        for i, column in enumerate(columns):
            if (concept, column) in first:
                with Image.open(folder / first[concept, column]) as file:
                    sheet.paste(file.resize((side, side), Image.Resampling.LANCZOS), (left + i * (side + 4), y))
    with atomic(path) as temporary:
        sheet.save(temporary, format="png")


def fullest(names: Sequence[str], shown: Sequence[str], there: Container[tuple[str, str]]) -> list[str]:
    """COLUMNS of the names at most, in their order: those in which most of what is shown has an image."""
    best = sorted(names, key=lambda name: -sum((concept, name) in there for concept in shown))[:COLUMNS]
    return [name for name in names if name in best]


def progress(base: Path, steps: list[Path], wanted: list[Answer], requests: list[Request], path: Path) -> None:
    """A picture of a sequence: one line a request, its first prompt on the base model and after each request; the step
    that met it has a red frame, and what is right of the frame should stay forgotten."""
    rows = []
    for j, request in enumerate(requests):
        file = next(a.file for a in wanted if a.cell[request.domain] == request.target)
        rows.append((f"{j + 1} {words(request.target)}", [folder / file for folder in (base, *steps)]))
    names = ["base", *(f"{k + 1}" for k in range(len(steps)))]
    grid(names, rows, path, framed={(j, j + 1) for j in range(len(requests))})


def grid(
    columns: list[str],
    rows: list[tuple[str, list[Path]]],
    path: Path,
    side: int = 64,
    framed: Container[tuple[int, int]] = (),
) -> None:
    """A picture of labelled rows of images; framed: (row, column) of those with a red frame."""
    left, top, gap = 130, 22, 4
    sheet = Image.new("RGB", (left + len(columns) * (side + gap), top + len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(columns):
        draw.text((left + i * (side + gap) + 4, 5), name, fill="black")
    for j, (label, files) in enumerate(rows):
        y = top + j * (side + gap)
        draw.text((6, y + side // 2 - 6), label, fill="black")
        for i, file in enumerate(files):
            x = left + i * (side + gap)
            with Image.open(file) as image:
                sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
            if (j, i) in framed:
                draw.rectangle((x - 2, y - 2, x + side + 1, y + side + 1), outline="#b00020", width=2)
    with atomic(path) as temporary:
        sheet.save(temporary, format="png")
