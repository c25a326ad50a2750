"""The picture of a run: the target and two look-alikes, before and after."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from fade.data.prompts import words
from fade.files import atomic

if TYPE_CHECKING:  # their modules import torch, which the report does without
    from benchmarks.measure.answers import Answer
    from fade.data.dataset import Dataset
    from fade.data.pairs import Request


COLUMNS, SIDE, GAP, LEFT, HEAD = 10, 96, 4, 150, 30  # of a picture: images at most, and pixels


def comparison(
    base: Path,
    run: Path,
    wanted: list[Answer],
    dataset: Dataset,
    request: Request,
    path: Path,
    kept: Sequence[str] = (),
) -> None:
    """A picture: the target and what is to be kept, before and after, each by the images that were asked for.

    base, run: folders of images of the same answer set. kept: concepts of the target's domain; where none is named, the
    surrogate and another.
    """
    apart = [c for c in dataset.domains[request.domain] if c not in (request.target, request.surrogate)]
    asked = {
        concept: spread([answer for answer in wanted if answer.cell[request.domain] == concept])
        for concept in (request.target, *(kept or [request.surrogate, *apart[-1:]]))
    }
    blocks = [block(base, run, request, *own) for own in asked.items() if own[1]]
    sheet = Image.new("RGB", (max(one.width for one in blocks), sum(one.height for one in blocks)), "white")
    for one, y in zip(blocks, accumulate((one.height for one in blocks), initial=0), strict=False):
        sheet.paste(one, (0, y))
    with atomic(path) as temporary:
        sheet.save(temporary, format="png")


def block(base: Path, run: Path, request: Request, concept: str, shown: Sequence[Answer]) -> Image.Image:
    """One concept before and after; above each pair what else it shows, and its seed."""
    step = SIDE + GAP
    sheet = Image.new("RGB", (LEFT + len(shown) * step, HEAD + 2 * step + 8), "white")
    draw, colour = ImageDraw.Draw(sheet), "#b00020" if concept == request.target else "black"
    for i, answer in enumerate(shown):
        others = [words(label) for domain, label in answer.cell.items() if domain != request.domain]
        draw.text((LEFT + i * step, 2), "\n".join([*others, f"seed {answer.seed}"]), fill="black", spacing=1)
    for j, (name, folder) in enumerate((("before", base), ("after", run))):
        y = HEAD + j * step
        draw.text((6, y + SIDE // 2 - 6), f"{words(concept)}, {name}", fill=colour)
        for i, answer in enumerate(shown):
            with Image.open(folder / answer.file) as file:
                sheet.paste(file.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (LEFT + i * step, y))
    return sheet


def spread(own: Sequence[Answer]) -> list[Answer]:
    """COLUMNS of a concept's answers at most: from all over the cells of the first seed; of further seeds too where it
    has fewer."""
    first = [answer for answer in own if answer.seed == own[0].seed]
    some, count = (first, COLUMNS) if len(first) >= COLUMNS else (own[:COLUMNS], min(len(own), COLUMNS))
    return [some[k * len(some) // count] for k in range(count)]


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
    font = ImageFont.load_default()
    left, top, gap = 14 + max(math.ceil(font.getlength(label)) for label, _ in rows), 34, 4
    sheet = Image.new("RGB", (left + len(columns) * (side + gap), top + len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(columns):
        draw.text((left + i * (side + gap) + 4, 4), name.replace("_", "\n"), fill="black", font=font, spacing=1)
    for j, (label, files) in enumerate(rows):
        y = top + j * (side + gap)
        draw.text((6, y + side // 2 - 6), label, fill="black", font=font)
        for i, file in enumerate(files):
            x = left + i * (side + gap)
            with Image.open(file) as image:
                sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
            if (j, i) in framed:
                draw.rectangle((x - 2, y - 2, x + side + 1, y + side + 1), outline="#b00020", width=2)
    with atomic(path) as temporary:
        sheet.save(temporary, format="png")
