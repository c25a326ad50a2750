"""What a report opens with: what its runs are, in words, and of one setting the answer in four numbers."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.record.format import Metric
from benchmarks.record.results import Run, by_setting
from benchmarks.report.attacks import NONE
from benchmarks.report.tables import mean_of
from fade.metrics import cell_text

FEW = 4  # targets that a heading names


def many(count: int, name: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {name}" if count == 1 else f"{count:,} {name}s"


def heading(runs: Sequence[Run]) -> str:
    """What was removed, by what: with names where they are few."""
    targets, kinds = sorted({run.gone for run in runs}), by_setting(runs)
    removed = ", ".join(targets) if len(targets) <= FEW else many(len(targets), "concept")
    by = next(iter(kinds)) if len(kinds) == 1 else many(len(kinds), "setting")
    return f"{removed} removed by {by}" + (f", {many(len(runs), 'run')}" if len(runs) > 1 else "")


def answer(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Question and answer of the one setting; nothing for several, which the summary sets beside each other. The
    interval is over images for one run, over runs (Student's) for more."""
    if len(by_setting(runs)) != 1:
        return []
    kept = [("its own domain", "ira"), ("other domains", "cra")]
    moved = [
        f"of {where} {cell_text(found, key)} are read right, {cell_text(_measured(runs, key, True), key)} before"
        for where, key in kept
        if (found := _measured(runs, key)) and found.get("value") is not None
    ]
    gone = f"the judge reads it no more in {cell_text(_measured(runs, 'ua'), 'ua')} of the images that ask for it (UA)"
    lines = [("Is it gone?", gone)]
    lines += [("What else moved?", "; ".join(moved))] if moved else []
    return [*lines, ("Can it be brought back?", brought(runs))]


def _measured(runs: Sequence[Run], key: str, base: bool = False) -> Metric | None:
    return runs[0].metric(key, base) if len(runs) == 1 else mean_of(runs, key, base)


def brought(runs: Sequence[Run]) -> str:
    """The strongest attack on any of the runs: its success, on which target."""
    rows = [
        (row, run)
        for run in runs
        for row in run.attacks
        if row["attack"] != NONE and not row.get("void") and row.get("success", {}).get("value") is not None
    ]
    if not rows:
        return "not measured: no attack was run"
    row, run = max(rows, key=lambda found: float(found[0]["success"]["value"]))
    return f"{run.gone} in {cell_text(row['success'])} of the images, by {row['attack']}, the strongest that was run"
