"""Does our order of UnlearnCanvas's methods agree with the published one? A number to report, never one to tune by."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata

from benchmarks.record.results import Run
from benchmarks.report.decided import NUMBERS, score
from benchmarks.report.figures import COLOURS, Figure
from benchmarks.report.tables import PUBLISHED
from fade.errors import BadInput

# The nine of arXiv 2402.11846, Table 2, by the names of conf/method.
METHODS = {
    "ESD": "esd",
    "FMN": "fmn",
    "UCE": "uce",
    "CA": "ca",
    "SalUn": "salun",
    "SEOT": "seot",
    "SPM": "spm",
    "EDiff": "ediff",
    "SHS": "shs",
}
ORDERS = {"mean of six": NUMBERS, "UA": ("ua",), "retention": ("ira", "cra")}
_DRAWS = 2000  # of the bootstrap


def published_scores(numbers: Sequence[str], domains: Sequence[str]) -> dict[str, float]:
    """method -> the mean of its published numbers of these domains, in percent."""
    with (PUBLISHED / "unlearncanvas.csv").open(encoding="utf-8", newline="") as file:
        rows = {METHODS[row["method"]]: row for row in csv.DictReader(file) if row["method"] in METHODS}
    return {
        method: float(np.mean([float(row[f"{domain}_{number}"]) for domain in domains for number in numbers]))
        for method, row in rows.items()
    }


def scores(runs: Sequence[Run], numbers: Sequence[str]) -> dict[str, dict[tuple[str, str], float]]:
    """method -> (domain, target) -> the mean over training seeds of a run's mean of these numbers, in percent."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for run in runs:
        found.setdefault(run.method_name, {}).setdefault((run.domain, run.target), []).append(score(run, numbers))
    return {
        method: {place: float(np.mean(values)) for place, values in places.items()} for method, places in found.items()
    }


def check_methods(runs: Sequence[Run]) -> list[Run]:
    """Those of the nine. Raises BadInput for fewer than three of them, and for one that was run in several settings."""
    own = [run for run in runs if run.method_name in METHODS.values()]
    labels = {name: {run.label for run in own if run.method_name == name} for name in {r.method_name for r in own}}
    for name, said in labels.items():
        if len(said) > 1:
            raise BadInput(f"{name} was run in several settings ({'; '.join(sorted(said))}); name folders with one")
    if len(labels) < 3:
        raise BadInput(
            f"--published ranks UnlearnCanvas's nine methods, and the folders hold {len(labels)} of them "
            f"({', '.join(sorted(labels)) or 'none'}); run three or more of {', '.join(METHODS.values())}"
        )
    return own


@dataclass(frozen=True)
class Order:
    """The methods in one order. table (methods, targets): our scores; domains: of the targets; told (methods,): the
    published ones; all in percent."""

    name: str
    methods: list[str]
    domains: list[str]
    table: np.ndarray
    told: list[float]

    @property
    def tau(self) -> tuple[float, float, float]:
        return interval(self.table, self.domains, self.told)


def orders(runs: Sequence[Run]) -> Iterator[Order]:
    """By each of ORDERS."""
    own = check_methods(runs)
    for name, numbers in ORDERS.items():
        ours = scores(own, numbers)
        places, methods = sorted(next(iter(ours.values()))), sorted(ours)
        domains = [domain for domain, _ in places]
        theirs = published_scores(numbers, sorted(set(domains)))
        table = np.array([[ours[method][place] for place in places] for method in methods])
        yield Order(name, methods, domains, table, [theirs[method] for method in methods])


def agreement(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Kendall's τ_b between our order and the published one, with its 95 % bootstrap interval over targets (drawn anew
    within each domain): it says how the choice of targets moves it, and nothing of how nine methods were chosen."""
    rows = [[order.name, str(len(order.methods)), str(len(order.domains)), *_said(order.tau)] for order in orders(runs)]
    return ["order by", "methods", "targets", "Kendall's tau", "95 % over targets"], rows


def _said(tau: tuple[float, float, float]) -> tuple[str, str]:
    value, low, high = tau
    return f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]"


def resampled(table: np.ndarray, domains: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The methods' means (methods,), domains weighing alike; and with targets drawn anew in each (draws, methods)."""
    groups = [np.flatnonzero(np.array(domains) == domain) for domain in sorted(set(domains))]
    generator = np.random.default_rng(0)

    def means(chosen: list[np.ndarray]) -> np.ndarray:
        return np.mean([table[:, group].mean(axis=1) for group in chosen], axis=0)

    drawn = [means([generator.choice(group, len(group)) for group in groups]) for _ in range(_DRAWS)]
    return means(groups), np.array(drawn)


def interval(table: np.ndarray, domains: Sequence[str], told: Sequence[float]) -> tuple[float, float, float]:
    """τ_b of a table (methods, targets) of scores with the published ones (methods,), and its bootstrap interval."""

    def tau(means: np.ndarray) -> float:
        return float(np.nan_to_num(kendalltau(means, told).statistic))  # nan where all methods are equal: no order

    own, drawn = resampled(table, domains)
    low, high = np.quantile([tau(means) for means in drawn], (0.025, 0.975))
    return tau(own), float(low), float(high)


def charts(runs: Sequence[Run]) -> list[Figure]:
    """For each order, a method's place here over its published one, 1 the best, with its 95 % interval over targets."""
    return [_chart(order) for order in orders(runs)]


def _chart(order: Order) -> Figure:
    import altair as alt

    own, drawn = resampled(order.table, order.domains)
    low, high = np.quantile(places(drawn), (0.025, 0.975), axis=0)
    marks = [
        {"method": f"{method} {ours:.1f} ({told:.1f})", "theirs": x, "ours": y, "low": a, "high": b}
        for method, told, ours, x, y, a, b in zip(
            order.methods, order.told, own, places(np.array(order.told)), places(own), low, high, strict=True
        )
    ]
    value, spread = _said(order.tau)
    title = f"By {order.name}: place here over UnlearnCanvas's. Kendall's tau {value} {spread}, over targets"
    count = len(order.methods)
    scale, axis = (
        alt.Scale(domain=[count + 0.5, 0.5], nice=False),
        alt.Axis(values=list(range(1, count + 1)), format="d"),
    )
    x, y = (alt.X("theirs:Q", scale=scale, axis=axis), alt.Y("ours:Q", scale=scale, axis=axis))
    x, y = x.title(f"place by {order.name}, published"), y.title(f"place by {order.name}, here")
    base = alt.Chart(alt.Data(values=marks)).encode(x, y)
    same = alt.Chart(alt.Data(values=[{"theirs": k, "ours": k} for k in (1, count)])).encode(x, y)
    spread_here = base.encode(alt.Y("low:Q", scale=scale, axis=axis), y2=alt.Y2("high:Q"))
    layers = [
        same.mark_line(strokeDash=[4, 4], color="grey", opacity=0.6),
        spread_here.mark_rule(strokeWidth=2, opacity=0.4, color=COLOURS[0]),
        base.mark_point(filled=True, size=80, opacity=1, color=COLOURS[0]),
        base.mark_text(align="left", dx=8, dy=-6, fontSize=11).encode(text=alt.Text("method:N")),
    ]
    chart = alt.LayerChart(layer=layers).properties(width=480, height=320, description=title)
    return Figure(f"agreement-{order.name.split()[0].lower()}", title, chart)


def places(scores: np.ndarray) -> np.ndarray:
    """1 for the best of the last axis; equal ones share the mean of theirs."""
    return rankdata(-scores, axis=-1)
