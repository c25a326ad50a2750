"""Finished runs -> a W&B report: its spec is plain data, made without a login; wandb-workspaces turns it into a page.

A run set is a sweep, by the group that the W&B logger gives it (output_dir); the panels show what the sweep varied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.record.results import Run
from fade.errors import BadInput
from fade.metrics import METRICS

LOSSES = ("loss/total", "loss/forget", "loss/retain")
KEYS = ("ua", "ira", "cra")
DEFAULT_GROUP = "outputs"  # output_dir, where no override says otherwise


@dataclass(frozen=True)
class RunSet:
    """A sweep: the runs of one W&B group."""

    name: str
    group: str


@dataclass(frozen=True)
class Panel:
    """kind: bar, scatter, line, columns (parallel coordinates), pictures; x, y: keys of summaries, settings, media."""

    kind: str
    title: str
    y: tuple[str, ...]
    x: str = ""
    log_x: bool = False


@dataclass(frozen=True)
class Spec:
    title: str
    about: str
    runs: tuple[RunSet, ...]
    panels: tuple[Panel, ...]


def group_of(run: Run) -> str:
    """The W&B group of a run: the output_dir that its command named."""
    return run.given.get("output_dir", DEFAULT_GROUP)


def varied(found: Sequence[Run]) -> list[str]:
    """The settings that differ between the runs, by the names of their overrides, in order of appearance."""
    values: dict[str, set[str]] = {}
    for run in found:
        for key, value in run.given.items():
            values.setdefault(key, set()).add(value)
    named = [sum(key in run.given for run in found) for key in values]
    return [key for (key, kinds), n in zip(values.items(), named, strict=True) if len(kinds) > 1 or n < len(found)]


def spec(found: Sequence[Run]) -> Spec:
    """Run sets and panels for these runs."""
    groups = list(dict.fromkeys(map(group_of, found)))
    settings = [key for key in varied(found) if key not in ("output_dir", "out", "seed", "target", "surrogate")]
    summaries = tuple(f"metrics/{key}/value" for key in KEYS)
    panels = [Panel("bar", METRICS[key].heading, (f"metrics/{key}/value",)) for key in KEYS]
    panels.append(Panel("scatter", "UA against IRA", ("metrics/ua/value",), "metrics/ira/value"))
    if len({r.sparsity["p"] for r in found if r.masked}) > 1:
        panels += [
            Panel(
                "scatter",
                f"{METRICS[key].heading} over the kept fraction",
                (f"metrics/{key}/value",),
                "config:sparsity.p",
                True,
            )
            for key in KEYS
        ]
    if settings:
        panels.append(Panel("columns", "What was varied", (*(f"config:{key}" for key in settings), *summaries)))
    panels.append(Panel("line", "Losses", LOSSES, "Step"))
    panels.append(Panel("pictures", "Before and after", ("before and after", "before beside after")))
    targets, datasets = len({r.target for r in found}), ", ".join(sorted({r.dataset for r in found}))
    about = f"{len(found)} runs, {targets} targets, {datasets}. The record is each run's folder; W&B mirrors it."
    return Spec(f"Concept unlearning: {len(found)} runs", about, tuple(RunSet(g, g) for g in groups), tuple(panels))


def report(made: Spec, place: str) -> Any:
    """A wandb-workspaces Report, unsaved. place: ENTITY/PROJECT. Raises BadInput where the extra is not installed."""
    entity, _, project = place.partition("/")
    if not entity or not project:
        raise BadInput(f"--wandb is {place!r}; write ENTITY/PROJECT")
    try:
        import wandb_workspaces.expr as expr
        import wandb_workspaces.reports.v2 as pages
    except ImportError as error:
        raise BadInput("--wandb needs wandb-workspaces: pip install 'fade-unlearning[wandb]'") from error

    def metric(key: str) -> Any:
        return pages.Config(key.removeprefix("config:")) if key.startswith("config:") else pages.SummaryMetric(key)

    def panel(p: Panel) -> Any:
        if p.kind == "bar":
            return pages.BarPlot(title=p.title, metrics=[metric(key) for key in p.y])
        if p.kind == "scatter":
            return pages.ScatterPlot(title=p.title, x=metric(p.x), y=metric(p.y[0]), log_x=p.log_x)
        if p.kind == "line":
            return pages.LinePlot(title=p.title, x=p.x, y=list(p.y))
        if p.kind == "columns":
            columns = [pages.ParallelCoordinatesPlotColumn(metric=metric(key)) for key in p.y]
            return pages.ParallelCoordinatesPlot(title=p.title, columns=columns)
        return pages.MediaBrowser(title=p.title, media_keys=list(p.y))

    runs = [
        pages.Runset(entity=entity, project=project, name=r.name, filters=expr.And(expr.Metric("Group") == r.group))
        for r in made.runs
    ]
    blocks = [pages.P(made.about), pages.PanelGrid(runsets=runs, panels=[panel(p) for p in made.panels])]
    return pages.Report(entity=entity, project=project, title=made.title, blocks=blocks)


def publish(found: Sequence[Run], place: str) -> str:
    """Save a draft of the report and return its address. Raises BadInput where W&B refuses it."""
    made = report(spec(found), place)
    try:
        made.save(draft=True)
    except Exception as error:  # no login, no network, no such project: W&B's own kinds of error, behind its extra
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"W&B did not take the report ({said}); `wandb login`, and sync the runs first") from error
    return f"{len(found)} runs: {made.url}"
