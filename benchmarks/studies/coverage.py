"""Does a part of the protocol tell what the whole would? Drawn again and again from runs that were measured in full.

python -m benchmarks.studies.coverage outputs/all_targets      for every setting there: how often the interval holds the
full value
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from benchmarks.measure.answers import kept_cells
from benchmarks.measure.metrics import Metric, wilson
from benchmarks.measure.predictions import Row
from benchmarks.record.results import read
from benchmarks.report.tables import table
from fade.console import command, one_line
from fade.errors import BadInput, at_least

_SHARES = ("ua", "ira", "cra", "cra_target")


@dataclass(frozen=True)
class Design:
    """A part of the whole: of the targets, of the grid's cells, of the seeds."""

    targets: float
    cells: float
    seeds: float

    @property
    def cost(self) -> float:
        return self.targets * self.cells * self.seeds


_DESIGNS = (Design(1, 0.5, 1), Design(1, 0.25, 1), Design(1, 0.25, 0.6), Design(0.5, 0.5, 1), Design(0.5, 0.25, 0.6))


def _hits(rows: list[Row], target: str, domain: str, metric: str) -> dict[tuple[str, str, str], bool]:
    """(style, object, seed) -> whether the image counts as a success of the metric; only the images that it counts."""
    other = "object" if domain == "style" else "style"
    judged = domain if metric in ("ua", "ira") else other
    found = {}
    for row in rows:
        if (row[domain] == target) == (metric in ("ua", "cra_target")):
            right = row[f"{judged}_predicted"] == row[judged]
            found[row["style"], row["object"], row["seed"]] = right != (metric == "ua")
    return found


def estimate(samples: list[np.ndarray], drawn: float, targets: int) -> Metric:
    """The mean over targets with a 95 % interval, from a part of the images of some of the targets.

    samples: for each target drawn, the success rate in each of its cells drawn (the images of a cell go together: it is
    the cell that is sampled). drawn: the share of a target's images that was drawn. targets: how many there are.
    Two-stage sampling from a finite population (Cochran 1977, chapter 10): the spread between targets counts as far as
    targets are left out, the spread between a target's cells as far as images are. Near 0 and 1, where little spread is
    seen, the interval is at least Wilson's over the cells, of which there are 1 / (1 - drawn) as many.
    """
    k, means = len(samples), np.array([cells.mean() for cells in samples])
    within = sum(cells.var(ddof=1) / len(cells) * (1 - drawn) for cells in samples if len(cells) > 1) / k**2
    share = k / targets
    between = (1 - share) * means.var(ddof=1) / k if share < 1 else 0.0
    half = (t(k - 1) if share < 1 else norm).ppf(0.975) * np.sqrt(between + share * within)
    value, cells = float(means.mean()), sum(map(len, samples))
    alike = round(cells / (1 - share * drawn)) if share * drawn < 1 else cells  # the finite population again
    low, high = wilson(round(value * alike) / alike, alike)
    return {
        "value": value,
        "low": max(0.0, min(value - half, low)),
        "high": min(1.0, max(value + half, high)),
        "n": cells,
    }


def part(runs: list[dict[str, Any]], metric: str, design: Design, generator: np.random.Generator) -> list[np.ndarray]:
    """The cells' success rates of one draw of the design, for each target drawn."""
    chosen = generator.permutation(len(runs))[: max(2, round(design.targets * len(runs)))]
    styles, objects, seeds = (sorted({key[i] for key in runs[0]["all"]}) for i in range(3))
    places = kept_cells([len(styles), len(objects)], design.cells, int(generator.integers(2**31)))
    cells = {(styles[p // len(objects)], objects[p % len(objects)]) for p in places}
    kept = set(generator.permutation(seeds)[: max(1, round(design.seeds * len(seeds)))])
    samples = []
    for index in chosen:
        found: dict[tuple[str, str], list[bool]] = {}
        for (style, name, seed), hit in runs[index][metric].items():
            if (style, name) in cells and seed in kept:
                found.setdefault((style, name), []).append(hit)
        samples.append(np.array([np.mean(own) for own in found.values()]))
    return samples


def load(folders: list[Path]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Runs by setting and domain of their target, each with its metrics' successes."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in read(folders)[0]:
        rows = run.predictions
        if not rows or not {"style", "object", "seed"} <= set(rows[0]):
            raise BadInput(
                f"{run.folder / 'predictions.csv'} is missing, cut short, or of no grid of styles and objects; run it "
                f"again"
            )
        if not any(row[run.domain] == run.target for row in rows):
            raise BadInput(
                f"{run.folder / 'predictions.csv'} has no image of the target {run.target!r} of results.json"
            )
        found: dict[str, Any] = {m: _hits(rows, run.target, run.domain, m) for m in _SHARES}
        found["all"] = [(row["style"], row["object"], row["seed"]) for row in rows]
        groups.setdefault((run.setting, run.domain), []).append(found)
    return groups


def coverage(
    groups: dict[tuple[str, str], list[dict[str, Any]]], design: Design, metric: str, draws: int
) -> dict[str, float]:
    """Over all settings and domains: how often the interval holds the full value, and its mean half-width."""
    generator = np.random.default_rng(0)
    held, halves, worst = [], [], 1.0
    for runs in groups.values():
        whole = float(np.mean([np.mean(list(run[metric].values())) for run in runs]))
        own = []
        for _ in range(draws):
            found = estimate(part(runs, metric, design, generator), design.cells * design.seeds, len(runs))
            own.append(found["low"] - 1e-9 <= whole <= found["high"] + 1e-9)
            halves.append((found["high"] - found["low"]) / 2)
        held += own
        worst = min(worst, float(np.mean(own)))
    return {"coverage": float(np.mean(held)), "worst": worst, "half": float(np.mean(halves))}


def main() -> None:
    parser = argparse.ArgumentParser(description="How often a part of the protocol's interval holds the full value.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=400)
    given = parser.parse_args()
    with one_line():
        at_least(1, draws=given.draws)
        groups = load(given.folders)
    header = ["targets", "cells", "seeds", "cost", *(f"{m} cover (worst) ± points" for m in _SHARES)]
    rows = []
    for design in _DESIGNS:
        row = [f"{100 * x:.0f} %" for x in (design.targets, design.cells, design.seeds, design.cost)]
        for metric in _SHARES:
            c = coverage(groups, design, metric, given.draws)
            row.append(f"{100 * c['coverage']:.1f} ({100 * c['worst']:.0f}) ± {100 * c['half']:.1f}")
        rows.append(row)
    print(table(header, rows))
    runs = sum(map(len, groups.values()))
    print(
        f"\n{given.draws} draws for each of {len(groups)} settings and domains ({runs} runs measured in full); cover: "
        "how often, in percent, the 95 % interval holds the full protocol's value"
    )


if __name__ == "__main__":
    command(main)
