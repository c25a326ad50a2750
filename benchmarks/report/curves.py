"""How soon attacks bring a concept back: images that are read as it over what the search had spent, a chart for each
target and attack, with the base above it and what never knew the concept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.record.results import Run, short
from benchmarks.report.attacks import CONTROLS, rises
from benchmarks.report.figures import COLOURS, SHAPES, Figure, aside
from benchmarks.report.tables import NEVER
from fade.intervals import share_of

if TYPE_CHECKING:
    import altair as alt

Points = list[list[int]]  # units of search, images that were read as the target, images
Attacked = tuple[Run, dict[str, Any]]  # and what one attack on it gave
MOST = 6  # runs in one chart, with two controls beside them
GAP = 7.0  # percent of the chart's height: a label's line
NAMES = {"base": "base", "oracle": NEVER, "never": "unseen concept"}
GREY = "#888888"  # of controls


def curves(runs: Sequence[Run]) -> list[Figure]:
    """One chart for each target and attack that searched and was looked at more than once."""
    found: list[Figure] = []
    for (_, gone, attack, _), own in _alike(runs).items():
        name = f"attack-{attack}-{gone.replace(' ', '_')}"
        again = sum(figure.name.startswith(name) for figure in found)
        found.append(_chart(f"{name}-{again + 1}" if again else name, gone, attack, own))
    return found


def _alike(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Attacked]]:
    """What may stand in one chart: one target, one attack, and the same curve of the base, so the same budget."""
    found: dict[tuple[str, ...], list[Attacked]] = {}
    for run, row in ((one, row) for one in runs for row in one.attacks if rises(row) and not row.get("void")):
        key = (run.dataset, run.gone, row["attack"], str(row["curves"].get("base")))
        found.setdefault(key, []).append((run, row))
    return dict(sorted(found.items()))


def _named(own: Sequence[Attacked]) -> dict[str, Points]:
    """The curve of each run by what tells it from the others, by name, so that a run looks the same in every chart;
    of too many those of which most came back."""
    found = {name: sorted(row["curves"]["attacked"]) for name, (_, row) in zip(_names(own), own, strict=True)}
    return {name: found[name] for name in sorted(sorted(found, key=lambda name: -_end(found[name]))[:MOST])}


def _names(own: Sequence[Attacked]) -> list[str]:
    methods = [run.method_name for run, _ in own]
    alike = len(set(methods)) < len(methods)
    return short([f"{run.setting} {run.surrogate} seed={run.seed}" for run, _ in own]) if alike else methods


def _end(points: Points) -> float:
    """The share after all that was spent, in percent."""
    return 100 * points[-1][1] / points[-1][2]


def _controls(own: Sequence[Attacked]) -> dict[str, Points]:
    """The base, and what never knew the concept: the oracle where there is one; by their keys."""
    known = {who: points for _, row in own for who, points in row["curves"].items() if rises(row, who)}
    beside = [who for who in CONTROLS if who in known][:1]
    return {who: sorted(known[who]) for who in ("base", *beside) if who in known}


def _chart(name: str, gone: str, attack: str, own: Sequence[Attacked]) -> Figure:
    runs, controls = _named(own), _controls(own)
    lines = runs | {NAMES[who]: points for who, points in controls.items()}
    images = own[0][1]["curves"]["attacked"][-1][2]
    ends = ", ".join(f"{series} {_end(points):.0f} %" for series, points in lines.items())
    title = f"{attack} on {gone}: the attacker's {images} images, read as the target. In the end: {ends}."
    left = len(own) - len(runs)
    title += f" {left} others, of which no more came back, are in the table alone." if left else ""
    return Figure(name, title, _drawn(lines, len(controls), title), part=gone)


def _drawn(lines: Mapping[str, Points], controls: int, title: str) -> alt.LayerChart:
    """controls: how many of the lines, the last ones, are."""
    import altair as alt

    series = list(lines)
    colour, shape, dash = _looks(series, controls)
    left = alt.Y("value:Q", title="read as the target, %").scale(domain=[0, 100], nice=False)
    along = alt.Order("units:Q")
    base = alt.Chart(alt.Data(values=_rows(lines))).encode(_spent(lines), left, colour, order=along)
    tip = [alt.Tooltip("series:N", title=" "), alt.Tooltip("units:Q", format=",")]
    tip += [alt.Tooltip("value:Q", title="%", format=".1f"), alt.Tooltip("note:N", title="images")]
    layers = [*aside(base, series, shape, tip, dash), *_labels(lines, colour, shape)]
    return alt.LayerChart(layer=layers).properties(width=420, height=260, description=title)


def _spent(lines: Mapping[str, Points]) -> alt.X:
    """The units of search, a tick where one looked."""
    import altair as alt

    units = sorted({units for points in lines.values() for units, *_ in points})
    scale = {"type": "log"} if units[0] else {"zero": False}
    axis = alt.Axis(values=units, format=",")
    return alt.X("units:Q", title="units of search", axis=axis).scale(**scale, nice=False, padding=24)


def _rows(lines: Mapping[str, Points]) -> list[dict[str, Any]]:
    """A mark each, in percent, with Wilson's interval."""
    return [
        {
            "series": series,
            "units": units,
            "note": f"{right} of {n}",
            **{key: 100 * end for key, end in share_of(right, n).items() if key != "n"},
        }
        for series, points in lines.items()
        for units, right, n in points
    ]


def _looks(series: Sequence[str], controls: int) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Runs in colours, controls grey and dashed; no legend, for each line has its name at its end."""
    import altair as alt

    runs, shapes = len(series) - controls, list(SHAPES)
    colours = [*COLOURS[:runs], *[GREY] * controls]
    marks = [*(shapes[k % len(shapes)] for k in range(runs)), *("triangle-down", "triangle-right")[:controls]]
    dashes = [*[[1, 0]] * runs, *([6, 3], [2, 3])[:controls]]
    return (
        alt.Color("series:N", legend=None).scale(domain=list(series), range=colours),
        alt.Shape("series:N", legend=None).scale(domain=list(series), range=marks),
        alt.StrokeDash("series:N", legend=None).scale(domain=list(series), range=dashes),
    )


def _labels(lines: Mapping[str, Points], colour: alt.Color, shape: alt.Shape) -> list[alt.Chart]:
    """The mark and the name of each line, right of its end, below each other where ends are near."""
    import altair as alt

    order = sorted(lines, key=lambda name: -_end(lines[name]))
    places = apart([_end(lines[name]) for name in order], GAP)
    rows = [{"series": name, "place": place} for name, place in zip(order, places, strict=True)]
    base = alt.Chart(alt.Data(values=rows)).encode(alt.Y("place:Q"), x=alt.value("width"))
    marks = base.mark_point(filled=True, size=60, opacity=1, xOffset=10).encode(colour, shape)
    return [marks, base.mark_text(align="left", dx=18, fontSize=11, limit=110).encode(alt.Text("series:N"))]


def apart(ends: Sequence[float], gap: float) -> list[float]:
    """Places from above, as near to these (the highest first) as leaves a gap between them, none below 0."""
    places: list[float] = []
    for end in ends:
        places.append(min(end, places[-1] - gap) if places else end)
    for k in reversed(range(len(places))):
        places[k] = max(places[k], places[k + 1] + gap if k + 1 < len(places) else 0.0)
    return places
