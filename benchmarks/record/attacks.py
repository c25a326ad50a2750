"""What task=attack wrote beside a run, as values: its rows, and each attack over the attacker's seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record.format import Metric
from fade.files import read_json, unharmed
from fade.intervals import pooled

Row = dict[str, Any]  # as fade/attacks/suite.py writes it
# The classes of attacks that draw nothing from the attacker's seed: another seed finds the same, and so makes the same
# images, which are no more of them (`seeded` of each class, which a test holds to this).
SEEDLESS = {
    *("Plain", "Prompts", "Sampler", "Bypass", "Closed", "Image", "Inpaint", "Completion"),
    *("Numerics", "Refill", "Merge", "Scale"),
}


@dataclass(frozen=True)
class Reached:
    """An attack on one run. success: over the attacker's seeds, of which there are `seeds`."""

    attack: str
    level: str
    success: Metric
    seeds: int


def read_attacks(folder: Path) -> list[Row]:
    """The rows below a folder, each with its picture, without those that repeat the images of another seed; nothing of
    a file that cannot be read."""
    found = [(path, unharmed(path, read_json)) for path in sorted(folder.glob("**/*.json"))]
    return list(_once({**row, "picture": str(path.with_suffix(".png"))} for path, row in found if _usable(row)))


def _usable(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("success"), dict) and row["success"].get("value") is not None


def _once(rows: Iterable[Row]) -> Iterator[Row]:
    seen: list[Any] = []
    for row in rows:
        images = [row["attack"], row.get("chosen"), row["success"]]
        if row.get("settings", {}).get("class") not in SEEDLESS or images not in seen:
            yield row
        seen.append(images)


def over_seeds(rows: Iterable[Row]) -> dict[str, Reached]:
    """By attack, what is not void, over the seeds."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if not row.get("void"):
            found.setdefault(row["attack"], []).append(row)
    return {name: _reached(name, own) for name, own in found.items()}


def _reached(name: str, rows: list[Row]) -> Reached:
    return Reached(name, rows[0].get("level", ""), pooled([row["success"] for row in rows]), len(rows))
