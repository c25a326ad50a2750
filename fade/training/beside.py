"""A finished run's images beside the base model's, from the same noise. Imports no torch."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from fade.files import read_json


def base_images(named: str | None, folder: Path) -> Path | None:
    """The folder of the base model's images of a run, where they are still there: `named` (base_answers) is its name in
    the cache, whose place run.json holds; results of older versions hold a path."""
    if not named:
        return None
    cache = Path("cache")
    with suppress(OSError, ValueError, KeyError, TypeError):
        cache = Path(read_json(folder / "run.json")["cache"])
    found = [
        place for place in (cache / named / "images", Path("cache") / named / "images", Path(named)) if place.is_dir()
    ]
    return found[0] if found else None


def before_after(results: dict[str, Any], folder: Path, most: int = 12) -> list[tuple[str, Image.Image]]:
    """Caption, and before and after side by side from the same noise: the target's images first, then others."""
    base = base_images(results.get("base_answers"), folder)
    if base is None or not (folder / "predictions.csv").is_file():
        return []
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    concerned = [row for row in rows if row[results["domain"]] == results["target"]][:most]
    others = [row for row in rows if row[results["domain"]] != results["target"]]
    found = []
    for row in concerned + others[:: max(1, len(others) // most)][:most]:
        with Image.open(base / row["file"]) as before, Image.open(folder / "images" / row["file"]) as after:
            sheet = Image.new("RGB", (before.width + after.width, before.height))
            sheet.paste(before, (0, 0))
            sheet.paste(after, (before.width, 0))
        found.append((f"{row['prompt'] or row['file']}, seed {row['seed']}", sheet))
    return found
