"""What a training is made of: single runs, sequences, plans and `fade.unlearn` train through this one door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from fade.adapters import Adapter
from fade.data.dataset import Dataset
from fade.data.pairs import Pairs, Request, tiers_of
from fade.methods import Method
from fade.models import Diffusion
from fade.models.quantization import check_gradients
from fade.sparsity import Sparsity
from fade.strategies import Step
from fade.timesteps import Timesteps
from fade.training.ranks import check_world
from fade.training.unlearner import Unlearner, fit


@dataclass(frozen=True)
class Recipe:
    """Everything of a training but the model and the requests. Raises BadInput, before any work, for parts that do not
    go together.

    adapter: its kind; settings: of that kind, what its `attach` takes (rank, targets, ...). trainer: makes a Trainer,
    anew for each training. steps: for each request. pairs: forget, retain and batch, as Pairs takes them. cache: of
    latents. schedule: locate_batch, warmup and cosine, as Unlearner takes them. processes: that share a training.
    """

    dataset: Dataset
    method: Method
    sparsity: Sparsity
    timesteps: Timesteps
    adapter: type[Adapter]
    settings: Mapping[str, Any]
    optimizer: partial[torch.optim.Optimizer]
    trainer: Callable[..., L.Trainer]
    steps: int
    pairs: Mapping[str, Any]
    cache: Path
    schedule: Mapping[str, Any]
    seed: int = 0
    checkpoint_every: int = 25
    processes: int = 1

    def __post_init__(self) -> None:
        self.method.check(self.adapter.kind, self.sparsity.kind, self.steps, self.timesteps.kind)
        tiers_of(self.dataset, self.pairs.get("captions", ["name"]))

    def step(self, request: Request) -> Step:
        """What is trained where one request is all."""
        return Step([request], [], self.method, self.sparsity)

    def attach(self, model: Diffusion, name: str = "fade") -> Adapter:
        """A new adapter on the model; the same values each time. Raises BadInput where the method has no meaning."""
        self.method.check_family(type(model))
        check_gradients(model.network)
        torch.manual_seed(self.seed)
        return self.adapter.attach(model, name=name, **self.settings)  # type: ignore[attr-defined]  # each kind's own

    def check(self, model: Diffusion, steps: Sequence[Step]) -> None:
        """Raises BadInput, before any work, for steps that this model cannot be trained in."""
        adapter = self.attach(model)
        for step in steps:
            made = self._unlearner(model, adapter, step, Path())
            check_world(self.processes, made.pairs.batch, step.method.combines, step.method.passes)
            made.pairs.check(model)
        adapter.detach()

    def train(
        self,
        model: Diffusion,
        adapter: Adapter,
        step: Step,
        folder: Path,
        saliency: Path | None = None,
        loggers: Sequence[Any] = (),
        steps: int | None = None,
    ) -> Unlearner:
        """Train the adapter; checkpoints go to the folder, and what stage one finds, where `saliency` names no file.

        steps: in place of the recipe's own, to try what one takes. Raises BadInput where nothing came of it.
        """
        made = self._unlearner(model, adapter, step, saliency or folder / "saliency.safetensors")
        budget = step.times * (self.steps if steps is None else steps)
        fit(made, partial(self.trainer, max_steps=budget), folder / "checkpoints", self.checkpoint_every, list(loggers))
        return made

    def _unlearner(self, model: Diffusion, adapter: Adapter, step: Step, saliency: Path) -> Unlearner:
        pairs = Pairs(self.dataset, step.requests, **self.pairs, cache=self.cache, gone=step.gone, guard=step.guard)
        return Unlearner(
            model,
            adapter,
            pairs,
            step.method,
            step.sparsity,
            self.optimizer,
            self.timesteps,
            saliency,
            **self.schedule,
            seed=self.seed,
        )
