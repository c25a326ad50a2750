"""Stage one: which weights carry the concept. S = Σ_batches |∂ MSE(ε_θ(z_t, t, c), ε) / ∂θ|  (FADE, arXiv 2602.07058)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.data.pairs import Batch, Example
from fade.diffusion import Diffusion

Saliency = dict[str, Tensor]  # layer name -> (out, in), non-negative


def denoising_gradients(model: Diffusion, weights: dict[str, Tensor], example: Example) -> list[Tensor]:
    """Gradients of the plain denoising loss, t ~ U{0..999}, the example's own captions, no guidance."""
    latents = example["latents"]
    t = torch.randint(0, model.pipe.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    noise = torch.randn_like(latents)
    z_t = model.noised(latents, t, noise)
    loss = mse_loss(model.predict(z_t, t, example["prompt"]), model.target(latents, t, noise))
    return list(torch.autograd.grad(loss, list(weights.values())))


def sum_of_abs(model: Diffusion, weights: dict[str, Tensor], batches: Iterable[Batch], side: str) -> Saliency:
    """Σ_batches |gradient| over the forget or the retain side, streaming, for `weights` only.

    The absolute value is taken per batch and then summed; SalUn sums first.
    """
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        for batch in batches:
            example = batch["forget"] if side == "forget" else batch["retain"]
            for name, gradient in zip(weights, denoising_gradients(model, weights, example), strict=True):
                total[name] += gradient.abs()
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return total


def ratio(forget: Saliency, retain: Saliency) -> Saliency:
    """S_f / (S_r + mean S_r), the mean over each layer: what matters to the concept and to little else."""
    return {name: s / (retain[name] + retain[name].mean() + 1e-20) for name, s in forget.items()}
