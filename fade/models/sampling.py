"""How images are made: what may be said of it, and how many at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fade.checked import Count

log = logging.getLogger(__name__)
Precision = Literal["float16", "bfloat16"]  # of autocast while images are made


@dataclass(frozen=True)
class Sampling:
    """How images are made; what is None is the model's own.

    sampler: a diffusers scheduler's class name. size: image side in pixels. precision: of autocast (float16, bfloat16),
    float32 for none. negative: the negative prompt. noise_device: where the noise is drawn; `cuda` repeats scripts that
    drew it there. skip: how many of the highest timesteps are left out, as forks of compvis do by one; for schedulers
    without a memory (DDIM).
    """

    steps: Count | None = None
    guidance: float | None = None
    sampler: str | None = None
    size: Count | None = None
    precision: Literal["float32", "float16", "bfloat16"] | None = None
    negative: str = ""
    noise_device: str = "cpu"
    skip: int = 0


class Room:
    """What the device's memory holds. at_once: images, None as long as nothing failed."""

    def __init__(self) -> None:
        self.at_once: int | None = None

    def made(self, draw: Callable[[slice], Tensor], n: int) -> Tensor:
        """Of n images; draw(part) makes some. Raises torch.OutOfMemoryError where not even one fits."""
        size, parts, done = self.at_once or n, list[Tensor](), 0
        while done < n:
            part = slice(done, min(done + size, n))
            images = _unless_full(draw, part)
            if images is None:
                size = self.at_once = -(-(part.stop - part.start) // 2)
                torch.cuda.empty_cache()  # what the one that failed has left in pieces
                log.warning("the device's memory does not hold so many images: %d at a time from here on", size)
            else:
                parts.append(images)
                done = part.stop
        return torch.cat(parts)


def _unless_full(draw: Callable[[slice], Tensor], part: slice) -> Tensor | None:
    """None where memory ends, unless it is of one image; what the failed call held goes with its frames."""
    try:
        return draw(part)
    except torch.OutOfMemoryError:
        if part.stop - part.start == 1:
            raise
        return None


def begun_lower(scheduler: Any, skip: int) -> Any:
    """The same one: its steps keep their width, and the highest `skip` of them are not taken."""
    set_timesteps = scheduler.set_timesteps

    def fewer(*args: Any, **settings: Any) -> None:
        set_timesteps(*args, **settings)
        scheduler.timesteps = scheduler.timesteps[skip:]

    if skip:
        scheduler.set_timesteps = fewer
    return scheduler
