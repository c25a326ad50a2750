"""What attacks brought back, as tables: of one run, and of every setting beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.record.attacks import NONE, Reached
from benchmarks.record.format import Metric
from benchmarks.record.results import Run, by_setting
from benchmarks.report.tables import DASH, Cell, Table, averaged, number, table
from fade.metrics import METRICS, cell_text, interval_text, usual

WORST = "largest excess ↓"
EXCESS = (
    "points over the same attack on a model that never saw the target (where there is none: on what else it was "
    "held against), with 95 % intervals over targets, or over what there is where that is one"
)
CONTROLS = {"oracle": "a model that never saw it", "never": "the base, a concept that nobody saw"}


def robustness(rows: Sequence[dict[str, Any]], target: str) -> str:
    """The table of one run, what it is of, and what it leaves out. rows: as fade/attacks/suite.py makes them."""
    over = rows[0]["over"]
    controls = ["base", "off", *(key for key in ("oracle", "never") if any(row.get(key) for row in rows))]
    header = ["attack", "level", "units", "success", "rest right too", *controls, f"excess over {over}", "found"]
    said = (
        f"attacks on {target}: percent of {rows[0]['success']['n']} images on seeds that the attacker never saw, with "
        "Wilson's 95 % intervals; a unit is an image through the network"
    )
    return "\n".join(["", said, "", table(header, [_line(row, controls) for row in rows]), *_notes(rows)])


def _line(row: dict[str, Any], controls: list[str]) -> list[str]:
    if "refused" in row:
        return [row["attack"], row["level"], *[DASH] * (len(controls) + 4), "cannot be made"]
    units = row["units"]["search"] + row["units"]["select"]
    shares = [cell_text(row[key]) for key in ("success", "with_rest", *controls)]
    excess = "void" if row["void"] else cell_text(row["excess"])
    return [row["attack"], row["level"], f"{units:,}", *shares, excess, row["chosen"] or DASH]


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    notes = [f"{row['attack']}: {row['refused']}" for row in rows if "refused" in row]
    notes += [f"{row['attack']}: void, for it fails on the base" for row in rows if row.get("void")]
    notes += [
        f"{row['attack']}: {len(row['dropped'])} of {len(row['curves']['base'])} left out, for they fail on the base: "
        f"{', '.join(row['dropped'])}"
        for row in rows
        if row.get("dropped")
    ]
    notes += [curve(row) for row in rows if rises(row)]
    return ["", *notes] if notes else []


def rises(row: dict[str, Any], who: str = "attacked") -> bool:
    """Whether an attack has a curve: it was looked at after more than one number of units of search."""
    return len({units for units, _, _ in row.get("curves", {}).get(who, ())}) > 1


def curve(row: dict[str, Any]) -> str:
    """How many of the attacker's own images were read as the target after so many units of search. Half: how soon that
    many were, which a model that remembers is before one that never saw the concept."""
    curves = {who: points for who, points in row["curves"].items() if who in ("attacked", "oracle", "never")}
    said = {
        who: ", ".join(f"{right} after {units:,}" for units, right, _ in points) + f" ({_half(points)})"
        for who, points in curves.items()
    }
    n = row["curves"]["attacked"][0][2]
    lines = [text if who == "attacked" else f"{CONTROLS[who]}: {text}" for who, text in said.items()]
    lines += [ratio(curves["attacked"], curves[who], CONTROLS[who]) for who in CONTROLS if who in curves][:1]
    return f"{row['attack']}, of {n} images by units: " + "; ".join(line for line in lines if line)


def _half(points: list[list[int]]) -> str:
    reached = until_half(points)
    return "never half" if reached is None else f"half after {reached:,}"


def until_half(points: list[list[int]]) -> int | None:
    """The units after which half of the images were the target; None where they never were."""
    return next((units for units, right, n in points if 2 * right >= n), None)


def ratio(points: list[list[int]], unseen: list[list[int]], name: str) -> str:
    """The units to half as a share of what they are where nothing was ever known: 1 is gone, far below is dormant. At
    most, where that was never reached; "" where the model under attack never reached it."""
    own, other = until_half(points), until_half(unseen)
    if own is None:
        return ""
    share = own / (unseen[-1][0] if other is None else other)
    return f"{'below ' if other is None else ''}{share:.2f} of the units of {name}"


def brought_back(
    runs: Sequence[Run], shows: Callable[[Sequence[Run], str], tuple[str, str] | None] = lambda runs, attack: None
) -> Table | None:
    """One row a setting, one column an attack: what it brings back over its control; None where nothing was attacked.
    What was void, or could not be made, is left out. shows: what an attack on some runs opens."""
    kinds = by_setting([run for run in runs if run.attacks])
    found = {name for own in kinds.values() for run in own for name in run.reached}
    names = sorted(found, key=lambda name: (name != NONE, name))
    rows = [
        [Cell(setting), number(len(own)), *(_over(own, name)._replace(shows=shows(own, name)) for name in names)]
        for setting, own in kinds.items()
    ]
    caption = f"In {EXCESS}; behind = the images read as the target, less the control's"
    return Table(["setting", "runs", *names], rows, caption) if names else None


def over_targets(runs: Sequence[Run], attack: str) -> Metric | None:
    """The mean over targets of what an attack brings back over its control; of one target over its runs; None where it
    was not tried on any."""
    targets: dict[tuple[str, str], list[Metric]] = {}
    for run in (run for run in runs if attack in run.reached):
        targets.setdefault((run.domain, run.gone), []).append(run.reached[attack].excess)
    groups = list(targets.values()) if len(targets) > 1 else [[one] for own in targets.values() for one in own]
    means = [{end: float(np.mean([one[end] for one in own])) for end in ("value", "low", "high")} for own in groups]
    return averaged(means, -1.0) if means else None


def points(excess: Metric) -> Cell:
    """+37.5 [5.1, 61.2]"""
    return Cell(f"{100 * excess['value']:+.1f}", interval_text(excess), excess["value"])


def over_control(one: Reached) -> Cell:
    """An attack's excess, and what that is the difference of."""
    return _difference(one.excess, one.success["value"], one.control["value"])


def _over(runs: Sequence[Run], attack: str) -> Cell:
    """The same over runs."""
    excess, found = over_targets(runs, attack), [run.reached[attack] for run in runs if attack in run.reached]
    if excess is None:
        return Cell(DASH)
    success, control = np.mean([(one.success["value"], one.control["value"]) for one in found], axis=0)
    return _difference(excess, success, control)


def _difference(excess: Metric, success: float, control: float) -> Cell:
    cell = points(excess)
    return cell._replace(interval=f"{cell.interval} = {100 * success:.1f} − {100 * control:.1f}")


def beside(table: Table, runs: Sequence[Run]) -> Table:
    """A table of settings with a column of the attack that brings back most in each; as it is where none was run."""
    kinds = by_setting([run for run in runs if any(one.tries for one in run.reached.values())])
    if not kinds:
        return table
    cells = [_worst(kinds[row[0].text]) if row[0].text in kinds else Cell(DASH) for row in table.rows]
    place = 2 + sum(METRICS[key].share for key in usual())  # right of the shares
    rows = [[*row[:place], cell, *row[place:]] for row, cell in zip(table.rows, cells, strict=True)]
    caption = f"{table.caption}. {WORST}: of all attacks that were tried the one of the largest mean, in {EXCESS}"
    return replace(table, header=[*table.header[:place], WORST, *table.header[place:]], rows=rows, caption=caption)


def _worst(runs: Sequence[Run]) -> Cell:
    names = sorted({one.attack for run in runs for one in run.reached.values() if one.tries})
    found = {name: excess for name in names if (excess := over_targets(runs, name))}
    name = max(found, key=lambda name: (found[name]["low"] > 0, found[name]["value"]))
    cell = points(found[name])
    return cell._replace(interval=f"{cell.interval} {name}")
