"""A scene of two objects, cut into the two: what judges are asked about its objects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

# where the two objects of a pair stand: top, bottom, left, right, as shares of the side
HALVES = ((0.20, 0.86, 0.0, 0.53), (0.20, 0.86, 0.47, 1.0))


def halves(images: Tensor) -> list[Tensor]:
    """The two objects of scenes (N, 3, H, W), each at the size of the whole, of the same type."""
    side = images.shape[-1]
    found = []
    for part in HALVES:
        top, bottom, left, right = (round(edge * side) for edge in part)
        cut = images[..., top:bottom, left:right]
        whole_size = torch.cat([interpolate(x.float(), (side, side), mode="bilinear") for x in cut.split(512)])
        found.append(whole_size.round().to(images.dtype) if images.dtype == torch.uint8 else whole_size)
    return found
