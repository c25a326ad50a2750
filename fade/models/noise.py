"""Where an image starts: the successive draws of seeded generators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Draw number `draw` of the generator seeded with `seed`."""

    seed: int
    draw: int = 0

    def of(self, shape: tuple[int, ...], device: str = "cpu") -> Tensor:
        """Standard normal noise of this shape, drawn on the device: equal on every machine where that is the CPU."""
        return _draws(self.seed, shape, device)[self.draw]


class _Draws:
    """The successive draws of one generator. The last one asked for is remembered; an earlier one is drawn anew."""

    def __init__(self, seed: int, shape: tuple[int, ...], device: str) -> None:
        self.seed, self.shape, self.device = seed, shape, device
        self.begin()

    def begin(self) -> None:
        self.generator, self.made = torch.Generator(self.device).manual_seed(self.seed), 0

    def __getitem__(self, draw: int) -> Tensor:
        if draw + 1 < self.made:
            self.begin()
        while self.made <= draw:
            self.last = torch.randn(self.shape, generator=self.generator, device=self.device)
            self.made += 1
        return self.last


@lru_cache(maxsize=2)
def _draws(seed: int, shape: tuple[int, ...], device: str) -> _Draws:
    return _Draws(seed, shape, device)
