"""Is unlearning a step toward never having seen the concept, or only away from the base?

oracle_eps  ‖ε_unlearned − ε_oracle‖² / ‖ε_base − ε_oracle‖² over noised held-out images of the target under its own
prompts: 1 is the untouched base, 0 the model that never saw it; ε is what the network predicts, in a flow a velocity
oracle_eps_kept  the same where something else is asked for
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure.benchmark import Benchmark
from benchmarks.measure.metrics import Metric
from fade.data.dataset import Item
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.models import Diffusion
from fade.pretrain.oracle import load_oracle

log = logging.getLogger(__name__)
IMAGES = 64  # of either side
LEVELS = 4  # of noise for each image, evenly over [0, T)
DRAWS = 1000  # of the bootstrap over images
SIDES = {"oracle_eps": True, "oracle_eps_kept": False}  # whether the images show the target


class Oracle:
    """A model that never saw the target, beside the base. Raises BadInput where it is another concept's, or of another
    base."""

    def __init__(self, folder: Path, base: Diffusion, benchmark: Benchmark, request: Request) -> None:
        self.benchmark, self.request = benchmark, request
        self.model = load_oracle(folder, base, request.target)
        self.truth = self.guesses(self.model)

    def warn(self, prompts: list[str]) -> None:
        """Log how many prompts its tokenizer cuts: words that it has never read are many tokens to it."""
        cut = 0
        for prompt in dict.fromkeys(prompts):
            try:
                self.model.check_prompts([prompt])
            except BadInput:
                cut += 1
        if cut:
            log.warning(
                "the oracle's tokenizer cuts %d of %d prompts, which name what it never read", cut, len(prompts)
            )

    def items(self, shown: bool) -> list[Item]:
        """IMAGES of the held-out images that show the target, or that do not, evenly over their cells."""
        dataset = self.benchmark.dataset
        found = [item for item in dataset.items("test") if self.request.concerns(dataset.cell(item)) == shown]
        return [
            found[k] for k in np.unique(np.linspace(0, len(found) - 1, min(IMAGES, len(found))).round().astype(int))
        ]

    @torch.no_grad()
    def guesses(self, model: Diffusion) -> dict[str, Tensor]:
        """What a model predicts, (N, LEVELS, C, h, w) for each side; images, noise and t are the same for every one."""
        return {name: self._guess(model, self.items(shown)) for name, shown in SIDES.items()}

    def _guess(self, model: Diffusion, items: list[Item]) -> Tensor:
        dataset = self.benchmark.dataset
        latents = model.encode(dataset.images(items, model.size).float() / 255)
        prompts = [self.benchmark.prompt(dataset.cell(item)) for item in items]
        embedding, generator, found = model.embed(prompts), torch.Generator().manual_seed(0), []
        model.prompts.asked = prompts  # for gates that hear it
        try:
            for level in range(LEVELS):
                noise = torch.randn(latents.shape, generator=generator).to(latents)
                t = torch.full((len(items),), int((level + 0.5) / LEVELS * model.train_steps), device=latents.device)
                found.append(model.predict(model.noised(latents, t, noise), t, embedding).float().cpu())
        finally:
            model.prompts.asked = None
        return torch.stack(found, 1)

    def distances(self, unlearned: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Metric]:
        """oracle_eps and oracle_eps_kept, with 95 % bootstrap intervals over images."""
        return {name: ratio(unlearned[name], base[name], self.truth[name]) for name in SIDES}


def ratio(unlearned: Tensor, base: Tensor, truth: Tensor) -> dict[str, Any]:
    """Squared distances to the truth (N, ...), the unlearned model's sum over the base's, and the ends of a percentile
    bootstrap over the N images."""
    ours, theirs = (((guess - truth) ** 2).flatten(1).sum(1).double().numpy() for guess in (unlearned, base))
    if theirs.sum() == 0:
        return {"value": None, "why": "the base predicts what the oracle does", "n": len(ours)}
    drawn = np.random.default_rng(0).integers(0, len(ours), (DRAWS, len(ours)))
    low, high = np.quantile(ours[drawn].sum(1) / theirs[drawn].sum(1), [0.025, 0.975])
    return {"value": float(ours.sum() / theirs.sum()), "low": float(low), "high": float(high), "n": len(ours)}
