"""Verdicts of one sampler beside those of another on the same starting noise: how many agree, what UA moves by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from benchmarks.measure.predictions import Row
from benchmarks.record.format import Metric
from benchmarks.report.tables import Table
from benchmarks.runs.again import BETWEEN
from benchmarks.studies._edge import NARROW, Edge
from fade.intervals import Z2, wilson

KEPT = ("near", "other")  # kinds of rows that do not ask for the target
LEAST, POINTS = 97.0, 1.0  # what a sampler must reach: percent of the target's verdicts, points of UA
_DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class Verdicts:
    """One sampler's rows on one edge."""

    edge: Edge
    rows: list[Row]

    @property
    def by_file(self) -> dict[str, Row]:
        return {row["file"]: row for row in self.rows}

    @property
    def ua(self) -> float:
        """Of the target's cells, asked by name; nan where nothing was asked."""
        found = [self.gone(row) for row in self.rows if row["kind"] == "name"]
        return float(np.mean(found)) if found else float("nan")

    def gone(self, row: Row, how: str = "predicted") -> bool:
        """Whether the judge reads something else than the target; how: `predicted`, or NARROW."""
        return row[f"{self.edge.run.domain}_{how}"] != self.edge.run.target


@dataclass(frozen=True)
class Compared:
    """One sampler against the reference, on the images that both made: shares and differences in [−1, 1], with 95 %
    intervals. passes: of the network, an image; cost: CPU seconds an image, of the reference's."""

    images: int
    same: Metric
    ua: float
    moved: Metric
    kept: Metric
    ira: Metric
    cra: Metric
    passes: float
    cost: float
    narrow: Metric

    def cells(self) -> list[str]:
        shown = [_percent(self.same), f"{100 * self.ua:.1f}", _points(self.moved), _percent(self.kept)]
        rest = [_points(self.ira), _points(self.cra), f"{self.passes:g}", f"{self.cost:.3f}", _percent(self.narrow)]
        return [str(self.images), *shown, *rest]

    @property
    def enough(self) -> bool:
        """Whether it gives the reference's verdicts, by its values; the intervals are beside them."""
        return 100 * self.same["value"] >= LEAST and abs(100 * self.moved["value"]) <= POINTS


def _percent(metric: Metric) -> str:
    return f"{100 * metric['value']:.1f} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def _points(metric: Metric) -> str:
    return f"{100 * metric['value']:+.1f} [{100 * metric['low']:+.1f}, {100 * metric['high']:+.1f}]"


def at_edge(found: Iterable[Verdicts]) -> list[Verdicts]:
    """Those whose UA by the reference lies between."""
    low, high = BETWEEN
    return [one for one in found if low <= one.ua <= high]


def row_of(pairs: Sequence[tuple[Verdicts, Verdicts]]) -> Compared:
    """Edge by edge, the reference's verdicts and another sampler's."""
    both = [(mine, mine.by_file, row) for mine, ours in pairs for row in ours.rows]
    found = [(mine, rows[row["file"]], row) for mine, rows, row in both if row["file"] in rows]
    aimed = [triple for triple in found if triple[1]["kind"] not in KEPT]
    left = [triple for triple in found if triple[1]["kind"] in KEPT]
    gone = [(mine.gone(one), mine.gone(two)) for mine, one, two in aimed]
    seconds = [(float(one["seconds"]), float(two["seconds"])) for _, one, two in found]
    return Compared(
        images=len(found),
        same=share([one == two for one, two in gone], _places(aimed)),
        ua=float(np.mean([two for _, two in gone])),
        moved=change([int(two) - int(one) for one, two in gone], _places(aimed)),
        kept=share([_reads(one) == _reads(two) for _, one, two in left], _places(left)),
        ira=_moved(left, own=True),
        cra=_moved(left, own=False),
        passes=float(np.mean([float(two["passes"]) for *_, two in found])),
        cost=sum(two for _, two in seconds) / sum(one for one, _ in seconds),
        narrow=share([mine.gone(two) == mine.gone(two, NARROW) for mine, _, two in aimed], _places(aimed)),
    )


_Triple = tuple[Verdicts, Row, Row]  # an edge's verdicts by the reference, its row of an image, the other sampler's


def _places(found: Sequence[_Triple]) -> list[tuple[str, str]]:
    """Edge and cell of each image."""
    return [(mine.edge.name, f"{row['style']} {row['object']}") for mine, row, _ in found]


def _domains(row: Row) -> list[str]:
    return [key.removesuffix("_predicted") for key in row if key.endswith("_predicted")]


def _reads(row: Row) -> tuple[bool, ...]:
    """Whether each judge reads what was asked for."""
    return tuple(row[f"{domain}_predicted"] == row[domain] for domain in _domains(row))


def _moved(left: Sequence[_Triple], own: bool) -> Metric:
    """How far IRA (own) or CRA moved, over what is to be kept."""
    values = []
    for mine, one, two in left:
        places = [k for k, domain in enumerate(_domains(one)) if (domain == mine.edge.run.domain) == own]
        values.append(sum(int(_reads(two)[k]) - int(_reads(one)[k]) for k in places) / len(places))
    return change(values, _places(left))


def share(right: Sequence[bool], places: Sequence[tuple[str, str]]) -> Metric:
    """The share of images that are `right`, with the bootstrap's interval, no narrower than Wilson's."""
    value, low, high = bootstrap(np.array(right, dtype=float), places)
    wide = wilson(value, len(right))
    return {"value": value, "low": min(low, float(wide[0])), "high": max(high, float(wide[1])), "n": len(right)}


def change(values: Sequence[float], places: Sequence[tuple[str, str]]) -> Metric:
    """The mean change of images, with the bootstrap's interval; it is no narrower than independent images make it, of
    which one at least changed."""
    value, low, high = bootstrap(np.array(values, dtype=float), places)
    moved = max(1.0, float(np.abs(values).sum()))
    half = sqrt(Z2 * max(moved - len(values) * value**2, 0.0)) / len(values)
    return {"value": value, "low": min(low, value - half), "high": max(high, value + half), "n": len(values)}


def bootstrap(values: np.ndarray, places: Sequence[tuple[str, str]]) -> tuple[float, float, float]:
    """The mean of values (N,), and its 95 % interval where adapters are drawn again, and of each its cells, whose
    images go together. places: adapter and cell of each."""
    sums, counts = _by_place(values, places)
    sizes = (counts > 0).sum(1)
    drawn = np.random.default_rng(0)
    edges = drawn.integers(len(sums), size=(_DRAWS, len(sums)))
    cells = (drawn.random((_DRAWS, *sums.shape)) * sizes[edges][..., None]).astype(int)
    used = np.arange(sums.shape[1]) < sizes[edges][..., None]
    totals, ns = ((part[edges[..., None], cells] * used).sum((1, 2)) for part in (sums, counts))
    low, high = np.quantile(totals / ns, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def _by_place(values: np.ndarray, places: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts (adapters, cells), each adapter's cells first and the rest zero."""
    names: dict[str, dict[str, int]] = {}
    for edge, cell in places:
        own = names.setdefault(edge, {})
        own.setdefault(cell, len(own))
    order = {edge: k for k, edge in enumerate(names)}
    sums = np.zeros((len(names), max(map(len, names.values()))))
    counts = sums.copy()
    for value, (edge, cell) in zip(values, places, strict=True):
        sums[order[edge], names[edge][cell]] += value
        counts[order[edge], names[edge][cell]] += 1
    return sums, counts


def cheapest(found: Mapping[str, Compared]) -> str | None:
    """Of those that give the reference's verdicts the one of the fewest passes, of these the least CPU time."""
    good = {name: one for name, one in found.items() if one.enough}
    return min(good, key=lambda name: (good[name].passes, good[name].cost)) if good else None


def settings_table(found: Sequence[Verdicts]) -> Table:
    """One row an adapter: its scale, and UA by the reference, tier by tier."""
    tiers = list(dict.fromkeys(row["kind"] for one in found for row in one.rows if row["kind"] not in KEPT))
    rows = []
    for one in found:
        by = {tier: [one.gone(row) for row in one.rows if row["kind"] == tier] for tier in tiers}
        texts = [f"{100 * np.mean(gone):.1f}" if gone else "–" for gone in by.values()]
        rows.append([one.edge.run.method, one.edge.run.target, f"{one.edge.scale:g}", *texts, str(len(one.rows))])
    return Table.of(["method", "target", "scale", *(f"UA {tier}" for tier in tiers), "images"], rows)
