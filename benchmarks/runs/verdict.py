"""How a run ended, in its last line; and whether that is enough for whoever asked (fail_under).

Forgotten: an image of the target in which the judge does not read the target (UA, as a count). Kept: IRA and CRA, which
are measured on images that do not ask for the target, each divided by the base model's on the same cells; their mean.
100 % is a model that is as good as it was at everything else, whatever its base was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.record.results import Run
from benchmarks.record.sequences import SequenceRun
from benchmarks.report.answer import forgotten, share_kept
from benchmarks.report.sequences import sequence_table
from benchmarks.report.tables import KEPT, run_table
from fade.errors import BadInput

LIMITS = ("ua", *KEPT)


class Below(BadInput):
    """A finished run that is worse than `fail_under` allows: exit code 3."""


def end(run: Run | SequenceRun, limits: Mapping[str, Any], done: bool, advice: str = "") -> None:
    """Print a run's table, what lies in its folder, what is advised, and its verdict; done: before this command. Raises
    Below."""
    table = sequence_table(run) if isinstance(run, SequenceRun) else run_table(run)
    folder = run.folder
    files = ", ".join(
        sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    )
    advice = advice and f"{advice}\n"
    again = "done already; nothing was done now\n" if done else ""
    print(f"\n{table}\n{folder}/: {files}\n\n{again}{advice}{verdict(run)}")
    enough(run, limits)


def verdict(run: Run | SequenceRun) -> str:
    """The last line of a run, of a sequence, or of a scored answer set."""
    said, folder = of_sequence(run) if isinstance(run, SequenceRun) else of_run(run), run.folder
    there = [path for path in (folder / "report.html", folder / "comparison.png") if path.is_file()]
    return " · ".join([*said, str(there[0]) if there else f"{folder}/"])


def of_run(run: Run) -> list[str]:
    metrics, base = run.metrics, run.base
    n, gone = metrics["ua"]["n"], forgotten(metrics["ua"])
    before = forgotten(base["ua"]) if base else 0
    if gone > before:
        said = f"forgotten {gone} of {n}" + (f" (base {before})" if base else "")
    else:
        said = f"NOT FORGOTTEN: {n - gone} of {n} still read as {run.target}"
    kept = share_kept(metrics, base)
    size = run.cost.get("adapter_bytes")
    return [
        said,
        *([f"kept {100 * kept:.1f} % of base"] if kept is not None else []),
        *([f"adapter {kilo(size)}"] if size else []),
    ]


def of_sequence(run: SequenceRun) -> list[str]:
    """Every request as it stands after the last."""
    last = run.steps[-1]
    counts = [f"{target} {forgotten(ua)} of {ua['n']}" for target, ua in last.ua.items()]
    failed = [target for target, ua in last.ua.items() if not forgotten(ua)]
    said = (f"NOT FORGOTTEN: {', '.join(failed)}; " if failed else "") + f"forgotten {', '.join(counts)}"
    kept = last.retention / max(run.base.retention, 1e-9)
    return [said, f"kept {100 * kept:.1f} % of base", f"adapters {kilo(run.summary['bytes'])}"]


def kilo(size: float) -> str:
    return f"{size / 1000:.0f} kB"


def check_limits(limits: Mapping[str, Any]) -> None:
    """Raises BadInput for a limit that is no proportion."""
    for key, low in limits.items():
        if low is not None and (isinstance(low, bool) or not isinstance(low, (int, float)) or not 0 <= low <= 1):
            raise BadInput(f"fail_under.{key} is {low}; it must be a number from 0 to 1")


def enough(run: Run | SequenceRun, limits: Mapping[str, Any]) -> None:
    """Raises Below for what is below its limit. Of a sequence: the worst request's UA, retention for both others."""
    found: dict[str, float | None]
    if isinstance(run, SequenceRun):
        last = run.steps[-1]
        found = {"ua": min(m["value"] for m in last.ua.values()), **dict.fromkeys(KEPT, last.retention)}
    else:
        found = {key: run.value(key) for key in LIMITS}
    short = [
        f"{key} is {'not measured' if (value := found[key]) is None else f'{value:.3f}'}, below fail_under.{key}={low}"
        for key, low in limits.items()
        if low is not None and ((value := found[key]) is None or value < low)
    ]
    if short:
        raise Below("; ".join(short))
