"""The k largest of the numbers of many tensors, without a copy of them all: by histograms over the bits.

The bits of numbers in single precision, none below zero, read as whole numbers stand in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 16  # bits, of the 32


def largest(values: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Masks of exactly k of all the values; of equal ones at the threshold the first are in."""
    bits = {name: value.float().view(torch.int32) for name, value in values.items()}
    high, k = _edge([each >> HALF for each in bits.values()], k)
    low, k = _edge([each[each >> HALF == high] & (1 << HALF) - 1 for each in bits.values()], k)
    masks, threshold = {}, high << HALF | low
    for name, each in bits.items():
        masks[name], equal = each > threshold, each == threshold
        if k and equal.any():
            first = equal & (equal.flatten().cumsum(0).view_as(equal) <= k)
            masks[name] |= first
            k -= int(first.sum())
    return masks


def _edge(numbers: list[Tensor], k: int) -> tuple[int, int]:
    """The k-th largest of whole numbers below 2^16, and how many of the k largest equal it."""
    counts = sum(torch.bincount(each.flatten(), minlength=1 << HALF) for each in numbers)
    assert isinstance(counts, Tensor)
    reach = counts.flip(0).cumsum(0).flip(0)  # how many are there or above
    edge = int((reach >= k).sum()) - 1
    return edge, k - int(reach[edge] - counts[edge])
