"""Charts that tell apart what lies at 99 to 100: what is wrong, 100 − x, on a scale that is logarithmic above LINEAR
and linear below it, so that 0 has a place; and which differences between settings are decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record.format import Metric
from benchmarks.record.results import Run, by_setting, called, short
from benchmarks.report.answer import many
from benchmarks.report.decided import LEVEL, gaps, holm, sign_flip, stratified, student_interval
from benchmarks.report.figures import COLOURS, Figure, both, decimals, looks
from benchmarks.report.tables import mean_of

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

LINEAR = 0.5  # percent of the images: one of 200; below it the scale is linear
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
WRONG = {
    "ua": "not gone: 100 − UA",
    "ira": "lost of its own domain: 100 − IRA",
    "cra": "lost of the other domain: 100 − CRA",
}
SCALE = f"The scale is logarithmic above {LINEAR:g}, and has a place for 0: nothing is wrong"
ROW = 17  # pixels of a line of a forest


def wrong(metric: Metric) -> dict[str, float]:
    """A share as an error in percent, with its interval; the value alone where it has none."""
    ends = {"low": "high", "high": "low"}
    return {
        "value": 100 * (1 - metric["value"]),
        **{end: 100 * (1 - metric[other]) for end, other in ends.items() if other in metric},
    }


def error_axis(title: str, top: float, channel: Callable[..., Any], key: str) -> Any:
    """A channel of errors from 0, with room for half a mark, to `top` percent."""
    import altair as alt

    ticks = [tick for tick in TICKS if tick <= top]
    axis = alt.Axis(values=ticks, format=".4~g")
    scale = alt.Scale(type="symlog", constant=LINEAR, domain=[-LINEAR / 4, top], nice=False)
    return channel(key, type="quantitative", title=title, axis=axis, scale=scale)


def _top(values: Sequence[float]) -> float:
    """The next tick above the largest error, and room for what is written beside it."""
    most = max(values)
    return next(tick for tick in (2, 5, 10, 20, 50, 100, 200) if tick > most or tick == 200)


# --- forests ----------------------------------------------------------------------------------------------------------


def _rows(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """What a forest has a row for: each setting, or, of one setting, each target."""
    kinds = by_setting(runs)
    if len(kinds) > 1:
        return dict(zip(short(list(kinds)), kinds.values(), strict=True))
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.domain, run.gone)):
        found.setdefault(run.gone, []).append(run)
    return found


def forest(runs: Sequence[Run]) -> list[Figure]:
    """For each setting, or each target of the one setting, what is wrong in UA, IRA and CRA with its interval; fewest
    errors first. Nothing of one row."""
    rows = _rows(runs)
    if len(rows) < 2:
        return []
    found = {
        f"{name} ({many(len(own), 'run')})": {
            key: wrong(metric) for key in WRONG if (metric := mean_of(own, key)) and metric.get("value") is not None
        }
        for name, own in rows.items()
    }
    order = sorted(found, key=lambda name: float(np.mean([one["value"] for one in found[name].values()])))
    series = [key for key in WRONG if any(key in found[name] for name in order)]
    marks, y = [], 0.0
    names = []
    for name in order:
        names.append({"y": y, "name": name})
        for key in (key for key in series if key in found[name]):
            y += 1
            one = found[name][key]
            marks.append({"y": y, "series": WRONG[key], "name": name, "text": f"{one['value']:.1f}", **one})
        y += 1.4
    title = f"What is wrong, with 95 % intervals over runs, or over the images of one. {SCALE}"
    chart = _forest(marks, names, [WRONG[key] for key in series], y, title)
    return [Figure("errors", title, chart, tuple(WRONG[key] for key in series))]


def _forest(
    marks: list[dict[str, Any]], names: list[dict[str, Any]], series: list[str], height: float, title: str
) -> alt.LayerChart:
    import altair as alt

    top = _top([end for mark in marks for end in (mark["value"], mark.get("high", 0.0))])
    colour, shape = looks(series)
    x = error_axis("wrong, % of the images", top, alt.X, "value")
    base = alt.Chart(alt.Data(values=marks)).encode(_line(height), x, colour)
    spread = (
        base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    )
    tip = [alt.Tooltip(key, type="nominal", title=" ") for key in ("name", "series")]
    tip += [alt.Tooltip(key, type="quantitative", format=".2f") for key in ("value", "low", "high")]
    points = base.mark_point(filled=True, size=70, opacity=1).encode(shape, tooltip=tip)
    said = _beside(marks, height)
    return (spread + points + said + _names(names, height)).properties(
        width=520, height=round(height * ROW), description=title
    )


def _line(height: float) -> alt.Y:
    """The lines of a forest, from above."""
    import altair as alt

    return alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, -0.8], nice=False, zero=False))


def _beside(marks: list[dict[str, Any]], height: float) -> alt.Chart:
    """The number of a mark, right of its interval."""
    import altair as alt

    ends = [{"y": mark["y"], "end": mark.get("high", mark["value"]), "text": mark["text"]} for mark in marks]
    drawn = alt.Chart(alt.Data(values=ends)).mark_text(align="left", dx=8, fontSize=11)
    return drawn.encode(_line(height), alt.X("end:Q"), alt.Text("text:N"))


def _names(names: list[dict[str, Any]], height: float) -> alt.Chart:
    """The name of a row, above its marks, so that a narrow page has room for both."""
    import altair as alt

    drawn = alt.Chart(alt.Data(values=names)).mark_text(
        align="left", fontSize=12, fontWeight="bold", limit=alt.ExprRef("width")
    )
    return drawn.encode(_line(height), x=alt.value(0), text=alt.Text("name:N"))


# --- one against the other --------------------------------------------------------------------------------------------


def tradeoffs(runs: Sequence[Run]) -> list[Figure]:
    """What is lost against what is not gone, and either against the seconds of training: one mark a setting, one line
    over p."""
    import altair as alt
    import pandas as pd

    table = pd.DataFrame([_mark(own) for own in by_setting(runs).values()]).dropna(subset="kept")
    if len(table) < 2:  # a mark alone says less than its row in the summary
        return []
    series = list(dict.fromkeys(table["series"]))
    table["series"] = table["series"].map(called(series))
    table["first"] = unbeaten(table["ua"], table["kept"])
    top = _top([*table["kept"], *table["kept_high"].dropna()])
    lost = error_axis("lost: 100 − retention, %", top, alt.X, "kept")
    title = f"What is lost against what is not gone; the dotted line joins what nothing beats in both. {SCALE}"
    found = [_against("ua-retention", title, table, lost, "ua")]
    timed = table.dropna(subset="seconds").assign(first=False)
    for key, label in (("ua", "What is not gone"), ("kept", "What is lost")) if len(timed) > 1 else ():
        title = f"{label} against seconds of training"
        found.append(_against(f"{key}-seconds", title, timed, _seconds(timed["seconds"]), key))
    return found


def _mark(runs: Sequence[Run]) -> dict[str, Any]:
    """A setting's mark: its errors with their intervals, in percent, and what it cost."""
    row: dict[str, Any] = {
        "series": runs[0].setting_without("sparsity.p"),
        "note": f"{runs[0].setting}: {many(len(runs), 'run')}",
    }
    for key, metric in both(runs).items():
        one = wrong(metric) if metric and metric.get("value") is not None else {"value": math.nan}
        row |= {key: one["value"], f"{key}_low": one.get("low", math.nan), f"{key}_high": one.get("high", math.nan)}
    trained = all(run.trained for run in runs)
    return row | {"seconds": max(0.1, float(np.mean([run.train_s for run in runs]))) if trained else math.nan}


def unbeaten(one: Sequence[float], other: Sequence[float]) -> list[bool]:
    """Which points no other point beats: none is as low in both and lower in one."""
    points = list(zip(one, other, strict=True))
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def _seconds(values: Sequence[float]) -> Any:
    import altair as alt

    axis = alt.Axis(values=decimals(min(values), max(values)), format=".4~g")
    scale = alt.Scale(type="log", nice=False, padding=12)
    return alt.X("seconds", type="quantitative", title="seconds of training", axis=axis, scale=scale)


def _against(name: str, title: str, table: pd.DataFrame, below: Any, key: str) -> Figure:
    """Marks over a channel, with their intervals; `first` joined by a dotted line."""
    import altair as alt

    x, series = below.shorthand, list(dict.fromkeys(table["series"]))
    labels = {"ua": "not gone: 100 − UA", "kept": "lost: 100 − retention"}
    left = error_axis(f"{labels[key]}, %", _top([*table[key], *table[f"{key}_high"].dropna()]), alt.Y, key)
    colour, shape = looks(series)
    rows = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]  # no interval is no field
    base = alt.Chart(alt.Data(values=rows)).encode(below, left, colour)
    tip = [alt.Tooltip("note", type="nominal", title=" "), alt.Tooltip("seconds", type="quantitative", format=".4~g")]
    tip += [alt.Tooltip(k, type="quantitative", title=said, format=".2f") for k, said in labels.items()]
    whiskers: dict[str, tuple[Any, Any]] = {key: (alt.Y(f"{key}_low:Q"), alt.Y2(f"{key}_high:Q"))}
    whiskers |= {"kept": (alt.X("kept_low:Q"), alt.X2("kept_high:Q"))} if x == "kept" else {}
    spreads = [
        base.transform_filter(f"isValid(datum.{k}_low)").mark_rule(opacity=0.4).encode(*ends)
        for k, ends in whiskers.items()
    ]
    joined = base.mark_line().encode(order=alt.Order(x, type="quantitative"))
    front = (
        base.transform_filter(alt.datum.first)
        .mark_line(strokeDash=[2, 3])
        .encode(color=alt.value("#888"), order=alt.Order(x, type="quantitative"))
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(shape, tooltip=tip)
    layers = [*spreads, joined, *([front] if table["first"].sum() > 1 else []), points]
    return Figure(
        name, title, alt.LayerChart(layer=layers).properties(width=520, height=320, description=title), tuple(series)
    )


# --- differences ------------------------------------------------------------------------------------------------------


def beside(runs: Sequence[Run]) -> tuple[str, list[Run]]:
    """The setting that others are compared with, and the runs that can be: of the dataset, protocol and image seeds
    that most are of. It is FADE's where there is one, else the one with the most runs."""
    meters: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        meters.setdefault((run.dataset, run.protocol, run.image_seeds), []).append(run)
    most = max(meters.values(), key=len)
    kinds = by_setting(most)
    ours = [name for name, own in kinds.items() if own[0].method_name == "fade"]
    return ours[0] if len(ours) == 1 else max(kinds, key=lambda name: len(kinds[name])), most


def differences(runs: Sequence[Run]) -> list[Figure]:
    """Each setting's mean of UA, IRA and CRA minus that of one of them, in points, over targets: Student's interval,
    and whether the sign-flip test decides it, by Holm over the settings. Nothing of fewer than two differences."""
    other, own = beside(runs)
    found = {}
    for name in by_setting(own):
        pairs = gaps(own, name, other, named=lambda run: run.setting) if name != other else {}
        if len(pairs) > 1:
            found[name] = pairs
    if len(found) < 2:
        return []
    names = called([*found, other])
    p = dict(zip(found, holm([sign_flip(stratified(pairs)[1]) for pairs in found.values()]), strict=True))
    marks, y = [], 0.0
    for name in sorted(found, key=lambda name: -stratified(found[name])[0]):
        marks.append(
            {
                "y": y + 1,
                **_difference(found[name], p[name]),
                "name": f"{names[name]} ({many(len(found[name]), 'target')})",
            }
        )
        y += 2.4
    spread = ", with Student's 95 % intervals" if any("low" in mark for mark in marks) else ", too few for an interval"
    title = (
        f"Mean of UA, IRA and CRA against {names[other]}, over the targets that both have{spread}; filled where the "
        f"sign-flip test decides, by Holm at {100 * LEVEL:.0f} %"
    )
    return [Figure("differences", title, _apart(marks, y, title))]


def _difference(pairs: Mapping[tuple[str, str], float], p: float) -> dict[str, Any]:
    mean, interval = stratified(dict(pairs))[0], student_interval(dict(pairs))
    told = ("better" if mean > 0 else "worse") if p <= LEVEL else "not decided"
    ends = {"low": interval[0], "high": interval[1]} if interval else {}
    return {"value": mean, **ends, "told": told, "text": f"{mean:+.2f} {told}", "p": p}


def _apart(marks: list[dict[str, Any]], height: float, title: str) -> alt.LayerChart:
    import altair as alt

    most = _top([abs(end) for mark in marks for end in (mark["value"], mark.get("low", 0.0), mark.get("high", 0.0))])
    ticks = sorted({sign * tick for tick in TICKS for sign in (-1, 1) if tick <= most})
    scale = alt.Scale(type="symlog", constant=LINEAR, domain=[-most, most], nice=False)
    said = "points; better is to the right"
    x = alt.X("value:Q", title=said, scale=scale, axis=alt.Axis(values=ticks, format=".4~g"))
    base = alt.Chart(alt.Data(values=marks)).encode(_line(height), x)
    colours = {"better": COLOURS[2], "worse": COLOURS[1], "not decided": "#888888"}
    colour = alt.Color("told:N", legend=None).scale(domain=list(colours), range=list(colours.values()))
    zero = (
        alt.Chart(alt.Data(values=[{"zero": 0}]))
        .mark_rule(strokeDash=[2, 3], color="#888")
        .encode(alt.X("zero:Q", scale=scale))
    )
    spread = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(alt.X("low:Q"), alt.X2("high:Q"), colour)
    )
    tip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("text:N", title=" "),
        alt.Tooltip("p:Q", title="p (Holm)", format=".3f"),
    ]
    points = base.mark_point(size=80, opacity=1, strokeWidth=2).encode(
        colour, fill=alt.condition("datum.told == 'not decided'", alt.value("white"), colour.copy()), tooltip=tip
    )
    words = _beside(marks, height)
    return (zero + spread + points + words + _names(marks_names(marks), height)).properties(
        width=520, height=round(height * ROW), description=title
    )


def marks_names(marks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The line above each mark."""
    return [{"y": mark["y"] - 1, "name": mark["name"]} for mark in marks]
