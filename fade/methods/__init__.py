"""One file a method: where to change the model (`locate`) and what to minimise (`losses`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from fade.adapters import Adapter
from fade.data.pairs import Batch
from fade.diffusion import Diffusion
from fade.saliency import Saliency


class Method(Protocol):
    """The two functions that make a method. Loss terms share one vocabulary (forget, retain, prior, ...)."""

    terms: tuple[str, ...]

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch]) -> Saliency:
        """Stage one: a score for every weight under the adapter."""

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        """Stage two: the named, unweighted terms of one step."""
