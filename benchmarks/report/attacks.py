"""What attacks brought back, as tables: of one run, and of every setting beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.record.attacks import NONE
from benchmarks.record.results import Run, by_setting
from benchmarks.report.tables import DASH, Cell, Table, mean_of, measured, number, table
from fade.metrics import cell_text

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
    """One row a setting, one column an attack: mean success over targets; None where nothing was attacked. What was
    void, or could not be made, is left out. shows: what an attack on some runs opens."""
    attacked = [run for run in runs if run.attacks]
    names = sorted({row["attack"] for run in attacked for row in run.attacks}, key=lambda name: (name != NONE, name))
    if not names:
        return None
    rows = []
    for setting, own in by_setting(attacked).items():
        found = [_as_run(run) for run in own]
        cells = [measured(mean_of(found, name), name)._replace(shows=shows(own, name)) for name in names]
        rows.append([Cell(setting), number(len(own)), *cells])
    caption = "Read as the target: means over runs with 95 % t-intervals, Wilson's over images where there is one run"
    return Table(["setting", "runs", *names], rows, caption)


def _as_run(run: Run) -> Run:
    """A run whose metrics are what the attacks reached."""
    return Run(run.folder, {**run.results, "metrics": {name: one.success for name, one in run.reached.items()}})
