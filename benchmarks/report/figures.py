"""Finished runs -> figures: one Altair definition each, interactive in the page, and SVG, PDF and PNG for papers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.measure.predictions import Row
from benchmarks.record.format import Metric
from benchmarks.record.results import Run, by_setting, short
from benchmarks.record.sequences import SequenceRun, steps_frame
from benchmarks.report.alike import by_likeness
from benchmarks.report.tables import KEPT, UNTOUCHED, mean_of
from fade.files import atomic
from fade.training.beside import base_images

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

COLOURS = ("#0b6bcb", "#d1480b", "#2f7d32", "#8e24aa", "#c2185b", "#00838f", "#6d4c41", "#5e6b00")
SHAPES = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚"}  # and in a legend's text
HEAT = ("#e8796b", "#f7d794", "#e6eef5")  # of an accuracy of 0, 50 and 100 %: black text reads on each
SWEPT = {"ua": "UA, %", "kept": "retention: mean of IRA and CRA, %"}
APART = 5  # pixels from one series' marks to another's of the same place


class HeatCell(NamedTuple):
    """An accuracy in percent. own: of what was forgotten."""

    value: float
    own: bool

    @property
    def colour(self) -> str:
        """HEAT, between its three."""
        place = min(int(self.value // 50), 1)
        ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in HEAT[place : place + 2]]
        share = (self.value - 50 * place) / 50
        return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends, strict=True))


@dataclass(frozen=True)
class Heat:
    """A grid of accuracies, for the page: a row for each forgotten concept, or each setting, with the names of its
    runs' images, and a column for each concept that was asked for. apart: of runs that forgot another concept alone."""

    domain: str
    apart: bool
    columns: list[str]
    rows: list[tuple[str, list[str], list[HeatCell | None]]]


@dataclass(frozen=True)
class Figure:
    """One chart. name: of its files; title: what it shows; series: what its colours and shapes stand for; cells: what
    the page shows in its place, a table whose cells open images; part: what it is folded under."""

    name: str
    title: str
    chart: alt.Chart | alt.LayerChart
    series: tuple[str, ...] = ()
    cells: Heat | None = None
    part: str = ""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """For a paper: with its legend, as wide as a column."""
        return self.chart.to_dict()

    @property
    def embedded(self) -> dict[str, Any]:
        """For the page, which names the series itself, beside the drawing; without the schema's address."""
        layers = [
            {**layer, "encoding": {key: _unnamed(channel) for key, channel in layer["encoding"].items()}}
            for layer in self.spec["layer"]
        ]
        return {**{key: value for key, value in self.spec.items() if key != "$schema"}, "layer": layers}

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Mark, colour and name of each series."""
        return [(*_look(i), name) for i, name in enumerate(self.series)]

    def save(self, folder: Path) -> None:
        """folder/name.svg, .pdf and .png (200 pixels an inch)."""
        import vl_convert as convert

        made = {
            "svg": convert.vegalite_to_svg(self.spec).encode(),
            "pdf": convert.vegalite_to_pdf(self.spec),
            "png": convert.vegalite_to_png(self.spec, ppi=200),
        }
        for kind, content in made.items():
            with atomic(folder / f"{self.name}.{kind}") as temporary:
                temporary.write_bytes(content)


def _unnamed(channel: Any) -> Any:
    """A channel without its legend."""
    return {**channel, "legend": None} if isinstance(channel, dict) and "legend" in channel else channel


@cache
def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, so that a page asks nothing of the network."""
    import vl_convert

    return vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;")


def _look(place: int) -> tuple[str, str]:
    """Mark and colour of a series by its place."""
    return list(SHAPES.values())[place % len(SHAPES)], COLOURS[place % len(COLOURS)]


def looks(series: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of each series, with a legend, which the page takes away and writes itself."""
    import altair as alt

    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=500, symbolOpacity=1)
    found = [_look(i) for i in range(len(series))]
    marks = {glyph: shape for shape, glyph in SHAPES.items()}
    colour = alt.Color("series", type="nominal", sort=None, legend=legend)
    shape = alt.Shape("series", type="nominal", sort=None, legend=legend)
    return (
        colour.scale(domain=list(series), range=[c for _, c in found]),
        shape.scale(domain=list(series), range=[marks[glyph] for glyph, _ in found]),
    )


def span(values: Collection[float]) -> list[float]:
    """A range of percents with room around it, within 0 and 100."""
    low, high = min(values), max(values)
    room = max(1.0, 0.15 * (high - low))
    return [max(0.0, low - room), min(100.0, high + room)]


def decimals(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [times * 10.0**power for power in powers for times in (1, 2, 5)]
    return [value for value in found if low / 2.5 <= value <= 2.5 * high]


# --- the kinds of chart -----------------------------------------------------------------------------------------------


def aside(
    base: alt.Chart, series: Sequence[str], shape: alt.Shape, tip: Sequence[alt.Tooltip], *line: alt.StrokeDash
) -> list[alt.Chart]:
    """Intervals (`low` to `high`, of rows that have them), line and marks of each series, a few pixels beside those of
    the others, so that no interval hides another's. line: more of what a line looks like."""
    import altair as alt

    layers = []
    for place, name in enumerate(series):
        off = min(APART, 24 / len(series)) * (place - (len(series) - 1) / 2)
        own = base.transform_filter(alt.FieldEqualPredicate(field="series", equal=name))
        spread = own.transform_filter("isValid(datum.low)").mark_rule(opacity=0.6, strokeWidth=1.5, xOffset=off)
        layers += [
            spread.encode(alt.Y("low:Q", scale=base.encoding.y["scale"]), y2="high:Q"),  # else it would begin at 0
            own.mark_line(xOffset=off).encode(*line),
            own.mark_point(filled=True, size=90, opacity=1, xOffset=off).encode(shape, tooltip=tip),
        ]
    return layers


def lines(
    name: str, title: str, table: pd.DataFrame, below: str, left: str, log: bool = False, ticks: Sequence[float] = ()
) -> Figure:
    """One line of marks for each `series` of the table: `value` over `x`, from `low` to `high` where a row has them,
    with a `note`. below, left: of the axes; log: of x."""
    import altair as alt

    series = list(dict.fromkeys(table["series"]))
    ends = [key for key in ("low", "high") if key in table]
    reach = [end for key in ("value", *ends) for end in table[key].dropna()]
    y = alt.Y("value", type="quantitative", title=left).scale(domain=span(reach), nice=False)
    colour, shape = looks(series)
    tip = [alt.Tooltip(key, type="nominal", title=" ") for key in ("series", "note")]
    said = {"x": below, "value": left} | {end: end for end in ends}
    tip += [alt.Tooltip(key, title=what, format=".4~g", type="quantitative") for key, what in said.items()]
    along = alt.Order("x", type="quantitative")
    rows = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]  # no interval is no field
    base = alt.Chart(alt.Data(values=rows)).encode(_along(table["x"], below, log, ticks), y, colour, order=along)
    chart = alt.LayerChart(layer=aside(base, series, shape, tip)).properties(width=520, height=300, description=title)
    return Figure(name, title, chart, tuple(series))


def _along(values: Collection[float], title: str, log: bool, ticks: Sequence[float]) -> alt.X:
    """The axis of `lines` below."""
    import altair as alt

    axis = alt.Axis(values=list(ticks), format=".4~g")
    return alt.X("x", type="quantitative", title=title, axis=axis).scale(
        **({"type": "log"} if log else {"zero": False}), nice=False, padding=12
    )


def grid(name: str, title: str, table: pd.DataFrame, cells: Heat | None = None) -> Figure:
    """A grid of accuracies in percent: rows and columns of the table, each cell with its number."""
    import altair as alt

    rows, columns = (list(dict.fromkeys(table[key])) for key in ("row", "column"))
    base = alt.Chart(alt.Data(values=table.to_dict("records"))).encode(
        alt.X("column", type="nominal", title=None, sort=columns, axis=alt.Axis(orient="top", labelAngle=-45)),
        alt.Y("row", type="nominal", title=None, sort=rows),
        tooltip=[
            alt.Tooltip("row", type="nominal", title="forgotten"),
            alt.Tooltip("column", type="nominal", title="asked for"),
            alt.Tooltip("value", type="quantitative", title="accuracy, %", format=".1f"),
            alt.Tooltip("images", type="quantitative"),
        ],
    )
    filled = base.mark_rect().encode(
        alt.Color("value", type="quantitative", legend=None).scale(domain=[0, 50, 100], range=HEAT, interpolate="rgb")
    )
    said = base.mark_text().encode(alt.Text("value", type="quantitative", format=".0f"), color=alt.value("#111"))
    ring = base.transform_filter(alt.datum.own).mark_rect(filled=False, stroke="#111", strokeWidth=2)
    chart = (filled + ring + said).properties(width=alt.Step(34), height=alt.Step(24), description=title)
    return Figure(name, title, chart, cells=cells)


# --- what they show ---------------------------------------------------------------------------------------------------


def retained(run: Run) -> Run:
    """A run whose one metric is what it keeps: the mean of IRA and CRA, with the mean of their intervals' ends, which
    is no narrower than that of their mean."""
    found = [metric for key in KEPT if (metric := run.metric(key)) and metric.get("value") is not None]
    parts = [part for part in ("value", "low", "high") if found and all(part in metric for metric in found)]
    kept = {part: float(np.mean([metric[part] for metric in found])) for part in parts}
    return Run(run.folder, {**run.results, "metrics": {"kept": kept} if kept else {}})


def both(runs: Sequence[Run]) -> dict[str, Metric | None]:
    """UA, and retention: the mean of IRA and CRA; of a number that no run has, None."""
    kept = [one for run in runs if (one := retained(run)).metrics]
    return {"ua": mean_of(runs, "ua"), "kept": mean_of(kept, "kept")}


def swept(runs: Sequence[Run]) -> list[Figure]:
    """UA and retention over every number that was swept, for each domain of targets: one line for each setting."""
    import pandas as pd

    groups: dict[tuple[str, str, str, float], list[Run]] = {}
    for run in (run for run in runs if run.masked):  # of others' answers nothing was swept
        for key, value in run.numbers.items():
            groups.setdefault((key, run.domain, run.setting_without(key), value), []).append(run)
    rows = [
        {"key": key, "domain": domain, "number": number, "series": series, "x": x, "note": f"{len(own)} runs"}
        | {part: 100 * metric[part] for part in ("value", "low", "high") if part in metric}
        for (key, domain, series, x), own in sorted(groups.items())
        for number, metric in both(own).items()
        if metric and metric.get("value") is not None
    ]
    found = []
    for (key, domain, number), part in (
        pd.DataFrame(rows).groupby(["key", "domain", "number"], sort=False) if rows else ()
    ):
        drawn = part[part.groupby("series")["x"].transform("nunique") > 1]
        if len(drawn):
            label, ticks = SWEPT[number], sorted(set(drawn["x"]))
            title = (
                f"{label.partition(':')[0]} over {key}, {domain}s, with 95 % intervals over runs, or the images of one"
            )
            found.append(lines(f"{number}-{key}-{domain}", title, drawn, key, label, ticks[0] > 0, ticks))
    return found


def accuracies(runs: Sequence[Run], domain: str) -> pd.DataFrame:
    """row: the forgotten concept; column: the evaluated one; value: the judge's accuracy in percent, over all runs that
    forgot it; own: both one."""
    import pandas as pd

    tables: dict[str, list[Row]] = {}
    for run in runs:
        tables.setdefault(run.target, []).extend(run.predictions)
    columns = sorted({row[domain] for rows in tables.values() for row in rows})
    found = []
    for target, rows in sorted(tables.items()):
        for column in columns:
            hits = [row[f"{domain}_predicted"] == column for row in rows if row[domain] == column]
            if hits:
                value = 100 * float(np.mean(hits))
                own = target == column
                found.append({"row": target, "column": column, "value": value, "images": len(hits), "own": own})
    return pd.DataFrame(found)


class Part(NamedTuple):
    """The runs of a setting that forgot concepts of one domain. table: their accuracies."""

    setting: str
    domain: str
    runs: list[Run]
    table: pd.DataFrame


def of_others(table: pd.DataFrame) -> pd.DataFrame:
    """Of accuracies, column: the evaluated concept; value: those of all images of it in the runs that forgot another
    one."""
    kept = table[~table["own"]]
    kept = kept.assign(right=kept["value"] * kept["images"])
    found = kept.groupby("column", as_index=False)[["right", "images"]].sum()
    return found.assign(value=found["right"] / found["images"], own=False).drop(columns="right")


def _beside(table: pd.DataFrame, runs: Sequence[Run], domain: str, rows: Sequence[str] = ()) -> pd.DataFrame:
    """The same, its columns, and its rows where no order of them is given, so that what looks alike is near."""
    order = by_likeness(runs, domain, sorted(set(table["column"])))
    ranks = {"row": list(rows) or order, "column": order}
    return table.sort_values(list(ranks), key=lambda names: names.map(ranks[names.name].index), kind="stable")


def heat(table: pd.DataFrame, domain: str, rows: Mapping[str, Sequence[Run]], names: Mapping[Path, str]) -> Heat:
    """The same as a table of the page. rows: the runs of each."""
    columns = list(dict.fromkeys(table["column"]))
    found = []
    for name, part in table.groupby("row", sort=False):
        images = [names[run.folder] for run in rows[str(name)] if run.folder in names]
        cells = {row["column"]: HeatCell(row["value"], row["own"]) for row in part.to_dict("records")}
        found.append((str(name), images, [cells.get(column) for column in columns]))
    return Heat(domain, not table["own"].any(), columns, found)


def untouched(runs: Sequence[Run]) -> list[Run]:
    """What the base model answers to each target's questions, as a run of it; nothing where some of it is gone."""
    found = dict[str, Run]()
    for run in runs:
        images = base_images(run.base_answers, run.folder)
        if images and (images.parent / "predictions.csv").is_file():
            found.setdefault(run.target, Run(images.parent, run.results))
    return list(found.values()) if len(found) == len({run.target for run in runs}) else []


def together(parts: Sequence[Part], names: Mapping[Path, str]) -> list[Figure]:
    """For each domain, what every setting leaves of each concept where it forgot another: the base first, then who
    keeps most."""
    import pandas as pd

    found = []
    for domain in sorted({part.domain for part in parts}):
        own = [part for part in parts if part.domain == domain]
        if len(own) < 2:
            continue
        runs = [run for part in own for run in part.runs]
        rows, tables = {part.setting: part.runs for part in own}, {part.setting: of_others(part.table) for part in own}
        best = sorted(tables, key=lambda name: -tables[name]["value"].mean())
        if base := untouched(runs):
            best, rows[UNTOUCHED] = [UNTOUCHED, *best], base
            tables[UNTOUCHED] = of_others(accuracies(base, domain))
        table = _beside(pd.concat([tables[name].assign(row=name) for name in best]), runs, domain, best)
        title = f"every setting: what is left of each {domain} where another was forgotten"
        found.append(grid(f"accuracy-{domain}", title, table, heat(table, domain, rows, names)))
    return found


def moved(runs: Sequence[Run], names: Mapping[Path, str]) -> list[Figure]:
    """What else moved: all settings beside each other, then for each setting and domain the accuracy on each concept
    after forgetting one. names: of the runs' images, by their folders."""
    parts, each = list[Part](), list[Figure]()
    kinds = by_setting(runs)
    for number, (name, own) in enumerate(zip(short(list(kinds)), kinds.values(), strict=True), 1):
        for domain in sorted({run.domain for run in own}):
            read = [run for run in own if run.domain == domain and run.predictions]
            if read:
                parts.append(Part(name, domain, read, accuracies(read, domain)))
                table = _beside(parts[-1].table, read, domain)
                rows = {target: [run for run in read if run.target == target] for target in table["row"]}
                cells = heat(table, domain, rows, names)
                each.append(grid(f"accuracy-{number}-{domain}", f"{name}: {domain}s forgotten", table, cells))
    return [*together(parts, names), *each]


def over_requests(runs: Sequence[SequenceRun]) -> list[Figure]:
    """Over the requests of sequences: the mean UA of all so far, and what is kept of what was never asked for."""
    table = steps_frame(runs)
    table = table.assign(series=table["sequence"], x=table["request"], note=table["target"])
    ticks, found = list(range(1, int(table["request"].max()) + 1)), []
    for key, column, label, title in (
        ("ua", "ua", "UA, %", "Mean UA of all requests so far"),
        ("kept", "retention", "kept, %", "Kept: accuracy on never-requested concepts"),
    ):
        parts = {"value": column, "low": f"{column}_low", "high": f"{column}_high"}
        drawn = table.assign(**{part: 100 * table[name] for part, name in parts.items()})
        title += ", with 95 % intervals over images"
        found.append(lines(f"sequence-{key}", title, drawn, "request", label, ticks=ticks))
    return found
