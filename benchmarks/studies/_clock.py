"""CPU time of several ways in turn: ratios, which a shared machine shifts far less than seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Row:
    """One way of one part. ms: the median; ratio, low, high: median and quartiles of n ratios, each to `of` in the
    same round. counts: what is exact: passes of the U-Net, samples in them, GFLOP."""

    part: str
    what: str
    ms: float
    ratio: float
    low: float
    high: float
    n: int
    of: str
    counts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_times(cls, part: str, what: str, taken: Sequence[float], base: Sequence[float], of: str) -> Row:
        """taken, base: seconds, round by round."""
        ratios = [mine / theirs for mine, theirs in zip(taken, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return cls(part, what, 1000 * statistics.median(taken), middle, low, high, len(ratios), of)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def timed(act: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    act()
    return time.process_time() - began


def rows_of(part: str, taken: dict[str, list[float]]) -> list[Row]:
    """Ratios to the first of them."""
    of = next(iter(taken))
    return [Row.of_times(part, what, values, taken[of], of) for what, values in taken.items()]


def in_turn(part: str, arms: dict[str, Callable[[], object]], repeats: int) -> list[Row]:
    """A B C A B C ...; one round before warms up."""
    taken: dict[str, list[float]] = {what: [] for what in arms}
    for number in range(repeats + 1):
        for what, act in arms.items():
            found = timed(act)
            if number:
                taken[what].append(found)
    return rows_of(part, taken)


def counted(network: nn.Module, act: Callable[[], object]) -> dict[str, float]:
    """Passes of the network, samples in them, and GFLOP of everything."""
    samples: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, args: samples.append(len(args[0])))
    with FlopCounterMode(display=False) as flops:
        act()
    handle.remove()
    return {"passes": len(samples), "samples": sum(samples), "GFLOP": round(flops.get_total_flops() / 1e9, 2)}
