"""The images of attacks, for the page: what was drawn without one and under it, of the same prompts and noise.

Of each attack on a run a sheet of two lines (WebP), cut out of the picture beside its result (fade/attacks/suite.py),
and a script that says what stands there; benchmarks/report/images.py has what both are for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.record.results import Run
from fade.files import atomic, content_hash, write_text
from fade.metrics import cell_text

CLEAN = "no attack"  # the line of what is drawn without one


def write_attacked(runs: Sequence[Run], folder: Path) -> tuple[dict[Path, str], list[str]]:
    """Write folder/NAME.js and NAME.webp for every attack whose picture is there. Returns the names by the pictures,
    and a line for each picture that is broken."""
    names, problems = {}, []
    for run, row in ((one, row) for one in runs for row in one.attacks if _usable(row)):
        path = Path(row["picture"])
        try:
            names[path] = _written(run, row, path, folder)
        except (OSError, SyntaxError) as error:
            problems.append(f"{path}: left out, broken ({error})")
    return names, problems


def brings(runs: Sequence[Run], attack: str, names: Mapping[Path, str]) -> tuple[str, str] | None:
    """Whose images a cell opens that says what an attack brought back on some runs."""
    paths = [Path(row["picture"]) for run in runs for row in run.attacks if row["attack"] == attack]
    found = [names[path] for path in paths if path in names]
    return (" ".join(found), "attack") if found else None


def _usable(row: dict[str, Any]) -> bool:
    """Whether it says what its picture holds, and the picture is there; that without an attack has none to show."""
    drawn = row.get("drawn") or {}
    both = bool(drawn.get("clean")) and bool(row.get("shown"))
    return both and {CLEAN, _line(row)} <= set(drawn["lines"]) and Path(row["picture"]).is_file()


def _line(row: dict[str, Any]) -> str:
    return f"{row['attack']} on attacked"


def _written(run: Run, row: dict[str, Any], path: Path, folder: Path) -> str:
    told = {
        "gone": run.gone,
        "setting": run.setting,
        "attack": row["attack"],
        "success": cell_text(row["success"]),
        "images": row["success"]["n"],
        "side": row["drawn"]["side"],
        "columns": len(row["shown"]),
        "tiles": 2 * len(row["shown"]),
        "pairs": [
            [clean["prompt"], clean["hit"], hit["hit"]]
            for clean, hit in zip(row["drawn"]["clean"], row["shown"], strict=True)
        ],
    }
    name = content_hash([run.identity, str(path), told])[:12]
    if not (folder / f"{name}.webp").is_file():
        _sheet(row, path, folder / f"{name}.webp")
    found = json.dumps({**told, "sheet": name}, separators=(",", ":"))
    write_text(folder / f"{name}.js", f"imagesOf({json.dumps(name)}, {found});\n")
    return name


def _sheet(row: dict[str, Any], path: Path, to: Path) -> None:
    """The two lines, the clean one above."""
    drawn = row["drawn"]
    left, step, side, lines = (drawn[key] for key in ("left", "step", "side", "lines"))
    width = side * len(row["shown"])
    sheet = Image.new("RGB", (width, 2 * side))
    with Image.open(path) as file:
        for j, line in enumerate((CLEAN, _line(row))):
            top = step * lines.index(line)
            sheet.paste(file.convert("RGB").crop((left, top, left + width, top + side)), (0, j * side))
    with atomic(to) as temporary:
        sheet.save(temporary, format="webp", quality=90)
