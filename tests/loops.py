"""Short trainings that say nothing, and ones that are killed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from configs import composed
from hydra.utils import instantiate
from omegaconf import DictConfig

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.data.dataset import Dataset
from fade.data.pairs import Pairs, Request
from fade.methods.fade import Fade
from fade.models import Diffusion
from fade.sparsity import Neuron
from fade.timesteps import Uniform
from fade.training.recipe import Recipe
from fade.training.unlearner import Unlearner, fit


def unlearner(
    model: Diffusion,
    adapter: Adapter,
    pairs: Pairs,
    folder: Path,
    terms: dict[str, float] | None = None,
    **settings: Any,
) -> Unlearner:
    given = {"cosine": True, "locate_batch": 8, "optimizer": partial(torch.optim.AdamW, lr=1e-2)} | settings
    return Unlearner(
        model,
        adapter,
        pairs,
        Fade(terms={"forget": 1.0, "retain": 1.0, **(terms or {})}),
        Neuron(0.2),
        timesteps=Uniform(),
        saliency_file=folder / "saliency.safetensors",
        **given,
    )


def recipe(dataset: Dataset, cache: Path, cls: type[Recipe] = Recipe, **other: Any) -> Recipe:
    """FADE on a small LoRA for three steps of two."""
    given: dict[str, Any] = {
        "dataset": dataset,
        "method": Fade(),
        "sparsity": Neuron(0.2),
        "timesteps": Uniform(),
        "adapter": Lora,
        "settings": {"rank": 2, "alpha": 2},
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
        "trainer": quiet(3, 1),
        "steps": 3,
        "pairs": {"forget": 8, "retain": 64, "batch": 2},
        "cache": cache,
        "schedule": {"locate_batch": 8, "cosine": True},
    }
    return cls(**given | other)


def quiet(steps: int, accumulate: int) -> partial:
    return partial(
        L.Trainer,
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


class Killed(Exception):
    pass


def dying(at: int) -> Any:
    """`training_step`, but the process is killed at its call number `at`."""
    original, calls = Unlearner.training_step, []

    def step(self: Unlearner, batch: Any, index: int) -> torch.Tensor:
        calls.append(index)
        if len(calls) == at:
            raise Killed
        return original(self, batch, index)

    return step


STEPS = 4  # of the sampler that ESD and SPM train on


def unlearner_of(config: DictConfig, model: Diffusion, adapter: Adapter, pairs: Pairs, file: Path) -> Unlearner:
    return Unlearner(
        model,
        adapter,
        pairs,
        instantiate(config.method),
        instantiate(config.sparsity),
        instantiate(config.optimizer.build),
        instantiate(config.timesteps),
        file,
        **config.optimizer.schedule,
        seed=config.seed,
    )


def trained(
    config: DictConfig, model: Diffusion, adapter: Adapter, pairs: Pairs, folder: Path, every: int = 3
) -> Unlearner:
    unlearner = unlearner_of(config, model, adapter, pairs, folder / "saliency.safetensors")
    fit(unlearner, quiet(config.trainer.max_steps, 1), folder, every, [])
    return unlearner


def config_of(name: str, steps: int, *overrides: str) -> DictConfig:
    """A method as run.py composes it, with a large rate and few steps; those without a loss have none."""
    config = composed(f"method={name}", *overrides)
    config.optimizer.build.lr = 1e-2
    config.trainer.max_steps = steps if instantiate(config.method).terms else 0
    if "sampling_steps" in config.method:
        config.method.sampling_steps = STEPS
    if "rounds" in config.method:  # STEREO's search
        config.method.update(rounds=2, erase_steps=2, search_steps=2)
    if "pool" in config.method:  # LACU's
        config.method.update(pool=8, mapping_samples=2, related_samples=2)
    if "points" in config.timesteps:
        config.timesteps.points = 4
    return config


def requests(dataset: Dataset, *names: str) -> list[Request]:
    return [Request.of(dataset, name, None) for name in names]
