"""Pure functions: predictions -> UA, IRA, CRA with 95 % intervals; features -> FID (torchmetrics).

UA   1 − accuracy on the target's cells, in the target's domain
IRA  accuracy in the target's domain over the other concepts of that domain
CRA  accuracy in the other domain, the target's cells left out (kept where `official`, as UnlearnCanvas's code does)
cra_target  accuracy in the other domain on the target's own cells: a style is gone, is the object still drawn?
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, bootstrap
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from benchmarks.judge import Row

Metric = dict[str, Any]  # value, low, high, n; proportions in [0, 1]


def wilson(successes: int, n: int) -> tuple[float, float]:
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def proportion(hits: list[bool]) -> Metric:
    """A share of independent images, with Wilson's interval."""
    low, high = wilson(sum(hits), len(hits))
    return {"value": sum(hits) / len(hits), "low": low, "high": high, "n": len(hits)}


def mean_over_cells(hits: dict[tuple[str, ...], list[bool]], seed: int = 0) -> Metric:
    """The mean of the cells' accuracies, with a percentile bootstrap over cells.

    Where all cells are alike the bootstrap has no width; Wilson's interval over the images stands in.
    """
    means = np.array([np.mean(cell) for cell in hits.values()])
    images = [hit for cell in hits.values() for hit in cell]
    value = float(means.mean())
    if np.ptp(means) == 0:
        return {**proportion(images), "value": value}
    interval = bootstrap(
        (means,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return {"value": value, "low": float(interval.low), "high": float(interval.high), "n": len(images)}


def by_cell(rows: list[Row], domains: list[str], judged: str) -> dict[tuple[str, ...], list[bool]]:
    """For each cell, whether each of its images was read right in the domain `judged`."""
    hits: dict[tuple[str, ...], list[bool]] = {}
    for row in rows:
        hits.setdefault(tuple(row[d] for d in domains), []).append(row[f"{judged}_predicted"] == row[judged])
    return hits


def scores(rows: list[Row], target: str, domain: str, domains: list[str], official: bool = False) -> dict[str, Metric]:
    """UA, IRA and, where the dataset has another domain, CRA and cra_target."""
    aimed = [row for row in rows if row[domain] == target]
    others = [row for row in rows if row[domain] != target]
    found = {
        "ua": proportion([row[f"{domain}_predicted"] != target for row in aimed]),
        "ira": mean_over_cells(by_cell(others, domains, domain)),
    }
    for other in domains:
        if other != domain:
            found["cra"] = mean_over_cells(by_cell(rows if official else others, domains, other))
            found["cra_target"] = proportion([row[f"{other}_predicted"] == row[other] for row in aimed])
    return found


def landed(rows: list[Row], target: str, domain: str) -> dict[str, int]:
    """Where the forgotten images ended up: counts of the labels that the judge reads on the target's prompts."""
    counts: dict[str, int] = {}
    for row in rows:
        if row[domain] == target:
            counts[row[f"{domain}_predicted"]] = counts.get(row[f"{domain}_predicted"], 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: -entry[1]))


class _Given(nn.Module):
    """Hands torchmetrics features that are computed already, in place of images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet(real: Tensor, made: Tensor) -> float:
    """Fréchet distance of two sets of features (N, D). Needs N > D on both sides, else the covariances are singular."""
    fewer = min(len(real), len(made))
    if fewer <= real.shape[1]:
        raise ValueError(f"{fewer} images for {real.shape[1]} features: the Fréchet distance needs more images than features")
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(made.double(), real=False)
    return float(metric.compute())
