"""The adapter of one step, trained and saved with its whole card: of a single run and of a sequence's every request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record.folder import Record, portable, provenance
from fade.adapters import Adapter
from fade.adapters.stored import Stored
from fade.files import without_folders
from fade.models import Diffusion
from fade.strategies import Step
from fade.training.recipe import Recipe


def trained(
    recipe: Recipe,
    model: Diffusion,
    step: Step,
    folder: Path,
    record: Record,
    about: dict[str, Any],
    name: str = "fade",
    saliency: Path | None = None,
    loggers: Sequence[Any] = (),
) -> tuple[Adapter, dict[str, float]]:
    """A new adapter, attached, and what training it took; it is saved in `folder`, and what training leaves there too.

    Its card says everything but the results, which are not there yet: the run's whole configuration too. about: what
    only the caller knows (method, seeds, overrides).
    """
    began = time.monotonic()
    adapter = recipe.attach(model, name)
    cost = recipe.train(model, adapter, step, folder, saliency, loggers).cost()
    cost["train_s"] = time.monotonic() - began
    card = {
        **vars(step.requests[-1]),
        **portable(about),
        "sparsity": {"kind": step.sparsity.kind, "p": step.sparsity.p, "density": adapter.density()},
        "cost": cost,
        "config": without_folders((record.folder / "config.yaml").read_text(encoding="utf-8")),
        **provenance(),
    }
    Stored.of(adapter, card).write(folder / "adapter")
    return adapter, cost
