"""Does our order of UnlearnCanvas's methods agree with the published one? A number to report, never one to tune by."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau

from benchmarks.record.results import Run
from benchmarks.report.decided import NUMBERS, score
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


def agreement(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Kendall's τ_b between our order and the published one, with its 95 % bootstrap interval over targets (drawn anew
    within each domain): it says how the choice of targets moves it, and nothing of how nine methods were chosen."""
    own = check_methods(runs)
    rows = []
    for name, numbers in ORDERS.items():
        ours = scores(own, numbers)
        places = sorted(next(iter(ours.values())))
        theirs = published_scores(numbers, sorted({domain for domain, _ in places}))
        methods = sorted(ours)
        told = [theirs[method] for method in methods]
        table = np.array([[ours[method][place] for place in places] for method in methods])
        value, low, high = interval(table, [domain for domain, _ in places], told)
        rows.append([name, str(len(methods)), str(len(places)), f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]"])
    return ["order by", "methods", "targets", "Kendall's tau", "95 % over targets"], rows


def interval(table: np.ndarray, domains: Sequence[str], told: Sequence[float]) -> tuple[float, float, float]:
    """τ_b of a table (methods, targets) of scores with the published ones (methods,), and its bootstrap interval."""
    groups = [np.flatnonzero(np.array(domains) == domain) for domain in sorted(set(domains))]
    generator = np.random.default_rng(0)

    def tau(chosen: list[np.ndarray]) -> float:
        means = np.mean([table[:, group].mean(axis=1) for group in chosen], axis=0)
        return float(np.nan_to_num(kendalltau(means, told).statistic))  # nan where all methods are equal: no order

    drawn = [tau([generator.choice(group, len(group)) for group in groups]) for _ in range(_DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return tau(groups), float(low), float(high)
