"""What task=attack wrote beside a run, as values: its rows, and each attack over the attacker's seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.record.format import Metric
from fade.files import read_json, unharmed

Row = dict[str, Any]  # as fade/attacks/suite.py writes it
# The classes of attacks that draw nothing from the attacker's seed: another seed finds the same, and so makes the same
# images, which are no more of them (`seeded` of each class, which a test holds to this).
SEEDLESS = {
    *("Plain", "Prompts", "Sampler", "Bypass", "Closed", "Image", "Inpaint", "Completion"),
    *("Numerics", "Refill", "Merge", "Scale"),
}
NONE = "none"  # the row without an attack
FACT = "T4"  # the level of what is a fact about every adapter, and no attack
CONTROLS = ("oracle", "never", "off")  # what an excess is over: the first of them that was measured


@dataclass(frozen=True)
class Reached:
    """An attack on one run, over the attacker's seeds, of which there are `seeds`. control: the same attack where there
    is nothing to bring back; over: which of CONTROLS that is."""

    attack: str
    level: str
    success: Metric
    control: Metric
    over: str
    seeds: int

    @property
    def tries(self) -> bool:
        """Whether it is an attack at all."""
        return self.attack != NONE and self.level != FACT

    @cached_property
    def excess(self) -> Metric:
        from fade.intervals import difference  # here, so that a wrong command does not wait for it

        return difference(self.success, self.control)

    @property
    def decided(self) -> bool:
        """Whether it brings back more than its control, by an interval that lies above 0."""
        return self.excess["low"] > 0

    @property
    def strength(self) -> tuple[bool, float]:
        """By which the strongest is told: what is decided before what is not, then by the excess."""
        return self.decided, self.excess["value"]


def read_attacks(folder: Path, within: str = "**") -> list[Row]:
    """The rows below a folder, each with its picture, without those that repeat the images of another seed; nothing of
    a file that cannot be read. within: a pattern of the folders that they lie in."""
    found = [(path, unharmed(path, read_json)) for path in sorted(folder.glob(f"{within}/*.json"))]
    rows = [{**row, "picture": str(path.with_suffix(".png"))} for path, row in found if isinstance(row, dict)]
    return list(_once(row for row in rows if row.get("attack") and row.get("success")))


def _once(rows: Iterable[Row]) -> Iterator[Row]:
    seen: list[Any] = []
    for row in rows:
        images = [row["attack"], row.get("chosen"), row["success"]]
        if row.get("settings", {}).get("class") not in SEEDLESS or images not in seen:
            yield row
        seen.append(images)


def measured(row: Row, side: str) -> bool:
    """Whether a side of it has a rate: where an attack finds nothing, nothing is drawn."""
    return (row.get(side) or {}).get("value") is not None


def over_seeds(rows: Iterable[Row]) -> dict[str, Reached]:
    """By attack, what is not void and has a control, over the seeds."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if measured(row, "success") and measured(row, "off") and not row.get("void"):
            found.setdefault(row["attack"], []).append(row)
    return {name: _reached(name, own) for name, own in found.items()}


def _reached(name: str, rows: list[Row]) -> Reached:
    from fade.intervals import pooled  # here, so that a wrong command does not wait for it

    over = next(key for key in CONTROLS if all(measured(row, key) for row in rows))
    success, control = (pooled([row[key] for row in rows]) for key in ("success", over))
    return Reached(name, rows[0].get("level", ""), success, control, over, len(rows))
