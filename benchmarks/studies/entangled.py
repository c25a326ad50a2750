"""Do the look-alikes that the retain set never showed suffer? The gate of a new grid, before its long training.

python -m benchmarks.studies.entangled outputs/entangled      runs with pairs.seen below 1 (sweeps/entangled.yaml)
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure.predictions import Row, read_rows
from benchmarks.record.results import Run, read
from benchmarks.report.tables import table
from fade.console import command, one_line
from fade.data.language import related
from fade.data.seen import seen_concepts
from fade.errors import BadInput

POINTS = 3.0  # that a run must lose on its unseen look-alikes to count


@dataclass(frozen=True)
class Loss:
    """What one run did to the concepts of its domain that its retain set did not show: shares of right images."""

    run: Run
    near: list[str]
    near_base: float
    near_after: float
    other_base: float
    other_after: float

    @property
    def points(self) -> float:
        return 100 * (self.near_base - self.near_after)


def right(rows: Sequence[Row], domain: str, concepts: Collection[str]) -> float:
    """The share of images of these concepts that the domain's judge reads right."""
    found = [row[f"{domain}_predicted"] == row[domain] for row in rows if row[domain] in concepts]
    return sum(found) / len(found)


def loss_of(run: Run, base: Sequence[Row]) -> Loss | None:
    """None where every look-alike of the target was shown, or where it has none."""
    rows, labels = run.predictions, dict.fromkeys(row[run.domain] for row in base)
    share = float(run.chosen.get("pairs.seen", "1"))
    shown = seen_concepts({run.domain: list(labels)}, share, {run.target, run.surrogate})
    unseen = [label for label in labels if label not in shown]
    near = [label for label in unseen if related(label, run.target)]
    other = [label for label in unseen if label not in near]
    if not near or not other or not rows:
        return None
    values = (right(part, run.domain, group) for group in (near, other) for part in (base, rows))
    return Loss(run, near, *values)


def losses(folders: list[Path], cache: Path) -> list[Loss]:
    runs, _ = read(folders)
    found = []
    for run in runs:
        answers = cache / str(run.base_answers) / "predictions.csv"
        if not answers.is_file():
            raise BadInput(f"no {answers}, the untouched model's answers; name the folder of cache_dir with --cache")
        if (loss := loss_of(run, read_rows(answers))) is not None:
            found.append(loss)
    if not found:
        raise BadInput("no run left a look-alike of its target unseen; run python run.py -m +sweeps=entangled")
    return found


def _row(loss: Loss) -> list[str]:
    shares = (loss.run.metrics["ua"]["value"], loss.near_base, loss.near_after, loss.other_base, loss.other_after)
    return [loss.run.method, loss.run.target, ", ".join(loss.near), *(f"{100 * share:.1f}" for share in shares)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What unlearning costs the look-alikes that the retain set never showed."
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    given = parser.parse_args()
    with one_line():
        found = losses(given.folders, given.cache)
    rows = [_row(loss) for loss in found]
    head = ["method", "target", "unseen look-alikes", "UA", "base", "after", "others: base", "after"]
    print(table(head, rows))
    for method in sorted({loss.run.method for loss in found}):
        mine = [loss for loss in found if loss.run.method == method]
        lost = sum(loss.points >= POINTS for loss in mine)
        print(f"{method}: {lost} of {len(mine)} targets lose {POINTS:g} points or more on their unseen look-alikes")


if __name__ == "__main__":
    command(main)
