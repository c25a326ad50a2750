"""Does our order of UnlearnCanvas's methods agree with the published one? A number to report, never one to tune by."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
    """The methods in one order. scores (methods, targets): ours; domains: of the targets; told (methods,): the
    published ones; all in percent."""

    name: str
    methods: list[str]
    domains: list[str]
    scores: np.ndarray
    told: list[float]

    @cached_property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """(methods,), domains weighing alike; and with the targets of each drawn anew, (draws, methods)."""
        groups = [np.flatnonzero(np.array(self.domains) == domain) for domain in sorted(set(self.domains))]
        generator = np.random.default_rng(0)

        def mean(chosen: list[np.ndarray]) -> np.ndarray:
            return np.mean([self.scores[:, group].mean(axis=1) for group in chosen], axis=0)

        drawn = [mean([generator.choice(group, len(group)) for group in groups]) for _ in range(_DRAWS)]
        return mean(groups), np.array(drawn)

    @cached_property
    def tau(self) -> tuple[float, float, float]:
        """τ_b of our means with the published scores, and its 95 % bootstrap interval over targets."""

        def tau(means: np.ndarray) -> float:
            value = kendalltau(means, self.told).statistic
            return float(np.nan_to_num(value))  # nan where all methods are equal: no order

        own, drawn = self.means
        low, high = np.quantile([tau(means) for means in drawn], (0.025, 0.975))
        return tau(own), float(low), float(high)

    @property
    def said(self) -> tuple[str, str]:
        value, low, high = self.tau
        return f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]"


def orders(runs: Sequence[Run]) -> list[Order]:
    """By each of ORDERS."""
    own, found = check_methods(runs), []
    for name, numbers in ORDERS.items():
        ours = scores(own, numbers)
        targets, methods = sorted(next(iter(ours.values()))), sorted(ours)
        domains = [domain for domain, _ in targets]
        theirs = published_scores(numbers, sorted(set(domains)))
        table = np.array([[ours[method][target] for target in targets] for method in methods])
        found.append(Order(name, methods, domains, table, [theirs[method] for method in methods]))
    return found


def agreement(found: Sequence[Order]) -> tuple[list[str], list[list[str]]]:
    """Kendall's τ_b between our order and the published one, with its 95 % bootstrap interval over targets (drawn anew
    within each domain): it says how the choice of targets moves it, and nothing of how nine methods were chosen."""
    rows = [[order.name, str(len(order.methods)), str(len(order.domains)), *order.said] for order in found]
    return ["order by", "methods", "targets", "Kendall's tau", "95 % over targets"], rows


def chart(order: Order) -> Figure:
    """A method's place here over its published one, 1 the best, with its 95 % interval over targets."""
    import altair as alt

    own, drawn = order.means
    low, high = np.quantile(places(drawn), (0.025, 0.975), axis=0)
    theirs, ours = places(np.array(order.told)), places(own)
    marks = [
        {"method": f"{name} {own[k]:.1f} ({order.told[k]:.1f})", "theirs": theirs[k], "ours": ours[k]}
        | {"low": low[k], "high": high[k]}
        for k, name in enumerate(order.methods)
    ]
    value, spread = order.said
    title = f"By {order.name}: place here over UnlearnCanvas's. Kendall's tau {value} {spread}, over targets"
    last = len(order.methods)
    scale = alt.Scale(domain=[last + 0.5, 0.5], nice=False)
    axis = alt.Axis(values=list(range(1, last + 1)), format="d")
    x = alt.X("theirs:Q", scale=scale, axis=axis, title=f"place by {order.name}, published")
    y = alt.Y("ours:Q", scale=scale, axis=axis, title=f"place by {order.name}, here")
    base = alt.Chart(alt.Data(values=marks)).encode(x, y)
    same = alt.Chart(alt.Data(values=[{"theirs": k, "ours": k} for k in (1, last)])).encode(x, y)
    spread_here = base.encode(alt.Y("low:Q", scale=scale, axis=axis), y2=alt.Y2("high:Q"))
    layers = [
        same.mark_line(strokeDash=[4, 4], color="grey", opacity=0.6),
        spread_here.mark_rule(strokeWidth=2, opacity=0.4, color=COLOURS[0]),
        base.mark_point(filled=True, size=80, opacity=1, color=COLOURS[0]),
        base.mark_text(align="left", dx=8, dy=-6, fontSize=11).encode(text=alt.Text("method:N")),
    ]
    drawing = alt.LayerChart(layer=layers).properties(width=480, height=320, description=title)
    return Figure(f"agreement-{order.name.split()[0].lower()}", title, drawing)


def places(means: np.ndarray) -> np.ndarray:
    """1 for the best of the last axis; equal ones share the mean of theirs."""
    return rankdata(-means, axis=-1)
