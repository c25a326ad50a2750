"""The images of runs, for the page: what lies beside it (images/), and the pair that it opens with.

Of a run one sheet of its images (WebP), one of the base model's, which runs share, and a script that says what stands
where, with what the judges read; scripts, since a page that is opened from a disk may read no other file.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.measure.predictions import Row, read_rows
from benchmarks.record.results import Run
from fade.data.prompts import words
from fade.errors import BadInput
from fade.files import atomic, content_hash, write_text
from fade.training.beside import base_images

MOST = 600  # images of a run that its sheet holds
SIDE = 96  # pixels, at most, of an image in a sheet
SHOWN = ("ua", "ira", "cra", "cra_target")  # metrics whose images the page finds in a sheet (assets/album.js)
LARGE = 256  # and of the pair that the page opens with


@dataclass(frozen=True)
class Album:
    """The images of a run that are there, and the base model's of the same prompts and noise. base: their folder, None
    where it is gone."""

    run: Run
    rows: list[Row]
    base: Path | None

    @property
    def images(self) -> Path:
        return self.run.folder / "images"

    @cached_property
    def before(self) -> dict[str, Row]:
        """What the judges read in the base's images, by file; nothing where that is not known."""
        try:
            return {row["file"]: row for row in read_rows(self.base.parent / "predictions.csv")} if self.base else {}
        except (OSError, KeyError, BadInput):
            return {}

    def aimed(self, row: Row) -> bool:
        """Whether a row asks for what was to be forgotten."""
        within = self.run.results.get("within")
        return row[self.run.domain] == self.run.target and (not within or within in row.values())

    @cached_property
    def chosen(self) -> list[Row]:
        """The rows that its sheet shows: all, or all of the target, all that are read wrong, and some of the others."""
        first = [row for row in self.rows if self.aimed(row) or _wrong(row, self.run)]
        names = {row["file"] for row in first}
        rest = [row["file"] for row in self.rows if row["file"] not in names]
        names |= set(rest[:: max(1, math.ceil(len(rest) / max(1, MOST - len(first))))])
        return [row for row in self.rows if row["file"] in names]


def _wrong(row: Row, run: Run) -> bool:
    return any(row[domain] != row[f"{domain}_predicted"] for domain in run.judge_accuracy)


def album(run: Run) -> Album | None:
    """None where a run's images or its predictions are gone."""
    rows = run.predictions
    if not rows or not all((run.folder / "images" / row["file"]).is_file() for row in rows):
        return None
    base = base_images(run.base_answers, run.folder)
    there = base is not None and all((base / row["file"]).is_file() for row in rows)
    return Album(run, rows, base if there else None)


# --- beside the page --------------------------------------------------------------------------------------------------


def write_images(runs: Sequence[Run], folder: Path) -> tuple[dict[Path, str], list[str]]:
    """Write folder/NAME.js and the sheets that it names for every run whose images are there. Returns the names by the
    run's folder, and a line for each run whose images are broken. What is there already is not made again."""
    names, problems = {}, []
    for run in runs:
        if (found := album(run)) is not None:
            try:
                names[run.folder] = _written(found, folder)
            except (OSError, SyntaxError) as error:
                problems.append(f"{run.folder / 'images'}: left out, broken ({error})")
    return names, problems


def opens(run: Run, key: str, names: Mapping[Path, str]) -> tuple[str, str] | None:
    """Whose images a metric of a run opens; None where its images are gone, or are not those of the grid that the page
    knows how to count."""
    counted = key in SHOWN[:1] or (not run.results.get("within") and run.results["gates"].get("reading") == "retained")
    return (names[run.folder], key) if run.folder in names and key in SHOWN and counted else None


def _written(album: Album, folder: Path) -> str:
    files = [row["file"] for row in album.chosen]
    name = content_hash([album.run.identity, album.chosen, list(album.before.items())])[:12]
    base = f"base-{content_hash([str(album.base and album.base.parent.name), files])[:12]}" if album.base else None
    side = min(SIDE, _width(album.images / files[0]))
    for sheet, source in ((name, album.images), (base, album.base)):
        if sheet and source and not (folder / f"{sheet}.webp").is_file():
            _sheet([source / file for file in files], side, folder / f"{sheet}.webp")
    found = {**told(album), "side": side, "columns": _columns(len(files)), "sheet": name, "base": base}
    write_text(folder / f"{name}.js", f"imagesOf({json.dumps(name)}, {json.dumps(found, separators=(',', ':'))});\n")
    return name


def _width(path: Path) -> int:
    with Image.open(path) as file:
        return file.width


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _sheet(files: Sequence[Path], side: int, path: Path) -> None:
    """Images (side, side) row by row, as many in a row as there are rows."""
    columns = _columns(len(files))
    sheet = Image.new("RGB", (columns * side, math.ceil(len(files) / columns) * side))
    for i, file in enumerate(files):
        with Image.open(file) as image:
            place = (i % columns * side, i // columns * side)
            sheet.paste(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), place)
    with atomic(path) as temporary:
        sheet.save(temporary, format="webp", quality=80)


def told(album: Album) -> dict[str, Any]:
    """What the page is told of a run's images. rows: for each the number of its prompt, its seed, and by domain what it
    was to show, what the judge reads, and what it read before (-1: not known), as places in that domain's labels."""
    run, domains = album.run, list(album.run.judge_accuracy)
    kinds = ("", "_predicted")
    every = [*album.rows, *album.before.values()]
    labels = {d: sorted({row[d + kind] for row in every for kind in kinds}) for d in domains}
    place = {d: {label: i for i, label in enumerate(found)} for d, found in labels.items()}
    prompts = list(dict.fromkeys(row["prompt"] for row in album.chosen))
    rows = [
        [
            prompts.index(row["prompt"]),
            row["seed"],
            *(
                [place[d][row[d]], place[d][row[f"{d}_predicted"]], place[d].get(_before(album, row, d), -1)]
                for d in domains
            ),
        ]
        for row in album.chosen
    ]
    return {
        "gone": run.gone,
        "setting": run.setting,
        "target": run.target,
        "within": run.results.get("within"),
        "domain": run.domain,
        "domains": domains,
        "labels": [[words(label) for label in labels[d]] for d in domains],
        "keys": [labels[d] for d in domains],
        "prompts": prompts,
        "rows": rows,
        "images": len(album.rows),
        "tiles": len(album.chosen),
    }


def _before(album: Album, row: Row, domain: str) -> str:
    return album.before.get(row["file"], {}).get(f"{domain}_predicted", "")


# --- what the page opens with -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One prompt and one noise on both models. before, after: WebP, base64; read_before, read_after: by the judge of
    the target's domain."""

    prompt: str
    seed: str
    before: str
    after: str
    read_before: str
    read_after: str


def pair(run: Run) -> Pair | None:
    """The first image that asks for the target, not a chosen one; None where it, or the base's, is gone or broken."""
    found = album(run)
    if found is None or found.base is None:
        return None
    row = next((row for row in found.rows if found.aimed(row)), None)
    if row is None:
        return None
    try:
        before, after = _large(found.base / row["file"]), _large(found.images / row["file"])
    except (OSError, SyntaxError):
        return None
    read = words(_before(found, row, run.domain)), words(row[f"{run.domain}_predicted"])
    return Pair(row["prompt"], row["seed"], before, after, *read)


def _large(path: Path) -> str:
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((LARGE, LARGE))
    buffer = io.BytesIO()
    image.save(buffer, format="webp", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
