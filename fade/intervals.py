"""Intervals of shares: Wilson's, of several searches for one thing, and Newcombe's of the difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

Z2 = float(ndtri(0.975) ** 2)  # the square of 1.96, of 95 %


def wilson(share: Any, n: int, squared: Any = Z2) -> tuple[Any, Any]:
    """Wilson's interval of a share (a number, or an array) of n images; squared: of the quantile, 1.96² for 95 %."""
    middle = (share + squared / (2 * n)) / (1 + squared / n)
    half = np.sqrt(squared * (share * (1 - share) / n + squared / (4 * n * n))) / (1 + squared / n)
    return np.maximum(0, middle - half), np.minimum(1, middle + half)


def share_of(right: int, n: int) -> dict[str, Any]:
    """value, low, high, n of `right` successes among n independent images."""
    low, high = wilson(right / n, n)
    return {"value": right / n, "low": float(low), "high": float(high), "n": n}


def pooled(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of shares that several seeds reached on images of the same prompts and noise.

    More seeds make no more such images: the interval is Wilson's of one seed's, its squared quantile widened by how
    much more the k shares differ than images alone would make them: (n s² / p(1 − p) − 1) / k, Kish's design effect
    less one over the seeds, times the square of Student's quantile.
    """
    if len(shares) == 1:
        return shares[0]
    values, k = np.array([share["value"] for share in shares]), len(shares)
    n, value = min(share["n"] for share in shares), float(values.mean())
    effect = n * float(values.var(ddof=1)) / max(value * (1 - value), 1e-12)
    low, high = wilson(value, n, Z2 + max(0.0, effect - 1) / k * float(stdtrit(k - 1, 0.975)) ** 2)
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """one − other of two independent shares, with the interval that their own intervals make (Newcombe 1998, method
    10)."""
    value = one["value"] - other["value"]
    down = math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    up = math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return {"value": value, "low": value - down, "high": value + up, "n": min(one["n"], other["n"])}
