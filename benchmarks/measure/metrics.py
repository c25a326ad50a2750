"""Pure functions: predictions -> UA, IRA, CRA with 95 % intervals; features -> FID (torchmetrics).

UA   1 − accuracy on the target's cells, in the target's domain: an image of nothing counts as forgotten, cra_target
shows it
IRA  accuracy in the target's domain over the other concepts of that domain
CRA  accuracy in the other domain, the target's cells left out (other readings: READINGS)
cra_target  accuracy in the other domain on the target's own cells: a style is gone, is the object still drawn?

The intervals say how far a number could move with other cells and other starting noise, for this one adapter: another
training seed is another adapter, and no part of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from benchmarks.measure.predictions import Row
from fade.data.pairs import Request
from fade.intervals import Z2, wilson
from fade.metrics import twin

Metric = dict[str, Any]  # value, low, high, n; proportions in [0, 1]
LEAST = 0.1  # of the root of a seed's other images: what they are taken to share, where few seeds cannot show it
FEW = 1.5  # a spread between few groups comes out too small more often than too large, and a share's is skewed


@dataclass(frozen=True)
class Hit:
    """An image that counts: its cell, its starting noise, whether it is a success, and the probability of one, where it
    is known."""

    cell: tuple[str, ...]
    noise: str
    right: bool
    p: float | None = None


def added(residuals: np.ndarray, groups: np.ndarray, least: float) -> np.ndarray:
    """What images (..., N) that share something within their groups (N,) add to the squared quantile of independent
    ones.

    The design effect less one (Kish 1965), from the sums over groups; `least` (times the root of the other images of a
    group) where less is seen; times the square of Student's quantile, for as many groups as there are.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    n, k = len(groups), len(starts)
    sums, total = np.add.reduceat(residuals[..., order], starts, axis=-1), (residuals**2).sum(-1)
    effect = (sums**2).sum(-1) * k * (n - 1) / (np.where(total > 0, total, 1) * n * max(1, k - 1))
    excess = np.maximum(effect - 1, least * math.sqrt(n / k - 1))
    return FEW * excess * stdtrit(max(2, k), 0.975) ** 2


def interval(
    right: np.ndarray, cells: np.ndarray, noises: np.ndarray, graded: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over cells of the success rates of images (..., N), with the ends of its 95 % interval.

    cells, noises: the cell and the starting noise of each image, as numbers (N,). With one latent a seed for all cells,
    the images are crossed, and neither those of a cell nor those of a seed are independent: Wilson's interval with its
    squared quantile widened for either (variances of both ways add: Cameron, Gelbach & Miller 2011; each with Student's
    quantile of its own: Cochran & Cox 1950). The pigeonhole bootstrap over both ways (Owen 2007) is as wide for
    independent images, and covers 82 % where five seeds share 0.3; LEAST and FEW are set so that this covers 93 %
    (tests/measure/test_metrics.py). One seed is taken for two. Never narrower than Wilson's; some failures never have a
    higher lower end than none.

    graded: `right` holds probabilities, which spread less than successes of the same mean: the squared quantile shrinks
    by that ratio of variances, the variance counted as at least 1/N, as of one image in N that is unlike all others.
    """
    means = np.stack([right[..., cells == cell].mean(-1) for cell in np.unique(cells)], -1)
    value = means.mean(-1)
    residuals = right - value[..., None]
    squared = Z2 + added(residuals, noises, LEAST) + added(residuals, cells, 0.0)
    if graded:
        most = np.maximum(value * (1 - value), 1e-12)
        squared = squared * np.minimum(1, np.maximum((residuals**2).mean(-1), 1 / len(cells)) / most)
    return value, *wilson(value, len(cells), squared)


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Names as numbers from 0, in order of appearance."""
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([index[name] for name in names])


def share(images: Sequence[Hit], graded: bool = False) -> Metric:
    """The mean of the cells' success rates, with its interval; graded: of their probabilities."""
    right = np.array([image.p if graded else image.right for image in images], dtype=float)
    places = _numbered([image.cell for image in images]), _numbered([image.noise for image in images])
    value, low, high = map(float, interval(right, *places, graded))
    return {"value": value, "low": low, "high": high, "n": len(images)}


def told(name: str, images: Sequence[Hit]) -> dict[str, Metric]:
    """A share, and its continuous twin where the probabilities are known: the mean probability that the judge gives the
    true class (where the concept is to be gone, every other one)."""
    found = {name: share(images)}
    return found if any(image.p is None for image in images) else found | {twin(name): share(images, graded=True)}


def hits(
    rows: Sequence[Row], domains: Sequence[str], judged: str, shared: bool = True, gone: bool = False
) -> list[Hit]:
    """Whether each image was read right in the domain `judged`, or, if it is to be `gone`, was not. shared: images of
    one seed began with one latent (protocol.noise=seed), else each with its own."""
    noise = "seed" if shared else "file"
    return [
        Hit(
            (judged, *(row[d] for d in domains)),
            row[noise],
            (row[f"{judged}_predicted"] == row[judged]) != gone,
            _probability(row, judged, gone),
        )
        for row in rows
    ]


def _probability(row: Row, judged: str, gone: bool) -> float | None:
    """That of the true class, or of all others; None in a table that does not say."""
    found = row.get(f"{judged}_probability")
    return None if found is None else abs(gone - float(found))


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
    "authors": Reading(False, True, True),  # 49 other styles, 50 in the CRA of an object; acc_object over all 51 themes
    "saeuron": Reading(False, False, True),  # Seed_Images left out everywhere, target cells kept
    "code": Reading(True, True, True),  # accuracy.py's own columns: everything
}


def scores(
    rows: Sequence[Row],
    target: str,
    domain: str,
    domains: Sequence[str],
    reading: str = "retained",
    photo: str | None = None,
    shared: bool = True,
) -> dict[str, Metric]:
    """UA, IRA and, where the dataset has another domain, CRA and cra_target, each with its twin. photo: the style that
    is no style. shared: whether images of one seed began with one latent."""
    how, style = READINGS[reading], None if target == photo else photo
    counted = _counted(rows, domain, how, style)
    aimed = [row for row in counted if row[domain] == target]
    others = [row for row in counted if row[domain] != target]
    found = told("ua", hits(aimed, domains, domain, shared, gone=True))
    found |= told("ira", hits(others, domains, domain, shared))
    for other in (name for name in domains if name != domain):
        kept = [row for row in _counted(rows, other, how, style) if how.target_in_cra or row[domain] != target]
        found |= told("cra", hits(kept, domains, other, shared))
        found |= told("cra_target", hits(aimed, domains, other, shared))
    return found


def _counted(rows: Sequence[Row], judged: str, how: Reading, photo: str | None) -> list[Row]:
    """The rows that a domain's judge is asked about: all, or those without the style that is no style."""
    with_photo = how.photo_in_style if judged == "style" else how.photo_in_object
    return [row for row in rows if with_photo or photo is None or row.get("style") != photo]


def landed(rows: list[Row], request: Request) -> dict[str, int]:
    """Where the forgotten images ended up: counts of the labels that the judge reads on the target's prompts."""
    counts: dict[str, int] = {}
    for label in (row[f"{request.domain}_predicted"] for row in rows if request.concerns(row)):
        counts[label] = counts.get(label, 0) + 1
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
        raise ValueError(
            f"{fewer} images for {real.shape[1]} features: the Fréchet distance needs more images than features"
        )
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(made.double(), real=False)
    return float(metric.compute())
