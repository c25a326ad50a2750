"""Pure functions: predictions -> UA, IRA, CRA with 95 % intervals; features -> FID (torchmetrics).

UA   1 − accuracy on the target's cells, in the target's domain
IRA  accuracy in the target's domain over the other concepts of that domain
CRA  accuracy in the other domain, the target's cells left out (other readings: READINGS)
cra_target  accuracy in the other domain on the target's own cells: a style is gone, is the object still drawn?
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, bootstrap
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

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


@dataclass(frozen=True)
class Reading:
    """Which rows count: how published code and papers differ in what they average (reference: UnlearnCanvas's issues).

    photo_in_style, photo_in_object: whether the images of the style that is none (Seed_Images) count where styles, or
    objects, are judged. target_in_cra: whether the target's own cells count in CRA.
    """

    photo_in_style: bool
    photo_in_object: bool
    target_in_cra: bool


READINGS = {
    "retained": Reading(True, True, False),  # this suite's: all that is to be kept, and nothing of the target
    "authors": Reading(False, True, True),   # 49 other styles, 50 in the CRA of an object; acc_object over all 51 themes
    "saeuron": Reading(False, False, True),  # Seed_Images left out everywhere, target cells kept
    "code": Reading(True, True, True),       # accuracy.py's own columns: everything
}  # fmt: skip


def scores(
    rows: list[Row], target: str, domain: str, domains: list[str], reading: str = "retained", photo: str | None = None
) -> dict[str, Metric]:
    """UA, IRA and, where the dataset has another domain, CRA and cra_target. photo: the style that is no style."""
    how = READINGS[reading]

    def counted(judged: str) -> list[Row]:
        with_photo = how.photo_in_style if judged == "style" else how.photo_in_object
        return [row for row in rows if with_photo or photo is None or row.get("style") != photo or target == photo]

    aimed = [row for row in counted(domain) if row[domain] == target]
    others = [row for row in counted(domain) if row[domain] != target]
    found = {
        "ua": proportion([row[f"{domain}_predicted"] != target for row in aimed]),
        "ira": mean_over_cells(by_cell(others, domains, domain)),
    }
    for other in domains:
        if other != domain:
            kept = [row for row in counted(other) if how.target_in_cra or row[domain] != target]
            found["cra"] = mean_over_cells(by_cell(kept, domains, other))
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


def kernel(real: Tensor, made: Tensor, subset: int = 100) -> Metric:
    """Kernel distance (torchmetrics' KID, cubic polynomial kernel) of two sets of features (N, D): mean and spread over
    subsets, drawn the same way each time."""
    size = min(subset, len(real), len(made))
    with warnings.catch_warnings(action="ignore"):  # that it keeps all features: they are in memory already
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subset_size=size, subsets=50)
    metric.update(real, real=True)
    metric.update(made, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, spread = metric.compute()
    return {"value": float(mean), "std": float(spread), "n": len(made)}


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
