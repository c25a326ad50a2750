"""Intervals of shares: Wilson's, and Newcombe's of the difference of two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import ndtri

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


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """one − other of two independent shares, with the interval that their own intervals make (Newcombe 1998, method
    10)."""
    value = one["value"] - other["value"]
    down = math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    up = math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return {"value": value, "low": value - down, "high": value + up, "n": min(one["n"], other["n"])}
