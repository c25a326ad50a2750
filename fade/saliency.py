"""Stage one: what carries the concept. S = Σ_batches |∂ MSE(ε_θ(z_t, t, c), ε) / ∂θ|  (FADE, arXiv 2602.07058)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.data.pairs import Batch, Example
from fade.models import Diffusion
from fade.models.embedding import Embedding

Saliency = dict[str, Tensor]  # layer name -> (out, in), non-negative


@contextmanager
def trainable(weights: dict[str, Tensor]) -> Iterator[None]:
    """Inside, gradients flow to the weights; after it, to those that they flowed to before."""
    before = {name: weight.requires_grad for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])


def denoising_loss(model: Diffusion, example: Example, guidance: float = 0.0, empty: Embedding | None = None) -> Tensor:
    """The loss of training, t uniform, the example's own captions.

    guidance w > 0: ‖ε − [(1 + w) ε_θ(c) − w ε_θ(∅)]‖² (SalUn); empty, of one caption, is the embedding of ∅.
    """
    latents = example["latents"]
    t = model.process.draw(len(latents), latents.device)
    noise = torch.randn_like(latents)
    z_t = model.noised(latents, t, noise)
    given = model.predict(z_t, t, example["prompt"])
    if guidance:
        assert empty is not None
        given = (1 + guidance) * given - guidance * model.predict(z_t, t, empty.expand_as(example["prompt"]))
    return mse_loss(given, model.target(latents, t, noise))


def denoising_gradients(model: Diffusion, weights: dict[str, Tensor], example: Example) -> list[Tensor]:
    """Gradients of `denoising_loss`, all at once."""
    found = torch.autograd.grad(denoising_loss(model, example), list(weights.values()), allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights.values(), found, strict=True)]


def add_gradients(loss: Tensor, weights: dict[str, Tensor], add: Callable[[str, Tensor], None]) -> None:
    """Hand each weight's gradient to `add` as soon as it is there, and let it go: never more than one is held."""

    def taken(name: str, weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        add(name, gradient)

    handles = [w.register_post_accumulate_grad_hook(partial(taken, name)) for name, w in weights.items()]
    try:
        loss.backward(inputs=list(weights.values()))
    finally:
        for handle in handles:
            handle.remove()


def zeros(weights: dict[str, Tensor]) -> Saliency:
    """In single precision at least: a sum of thousands of batches in bfloat16 stands still far below its value."""
    single = {name: torch.promote_types(weight.dtype, torch.float32) for name, weight in weights.items()}
    return {name: torch.zeros_like(weight, dtype=single[name]) for name, weight in weights.items()}


def sum_of_abs(
    model: Diffusion,
    weights: dict[str, Tensor],
    batches: Iterable[Batch],
    side: str,
    guidance: float = 0.0,
    empty: Embedding | None = None,
) -> Saliency:
    """Σ_batches |gradient| over the forget or the retain side, streaming, for `weights` only."""
    total = zeros(weights)
    with trainable(weights):
        for batch in batches:
            example = batch["forget"] if side == "forget" else batch["retain"]
            loss = denoising_loss(model, example, guidance, empty)
            add_gradients(loss, weights, lambda name, gradient: total[name].add_(gradient.abs()))
    return total


def sum_of_signed(
    model: Diffusion,
    weights: dict[str, Tensor],
    batches: Iterable[Batch],
    guidance: float = 0.0,
    empty: Embedding | None = None,
) -> Saliency:
    """|Σ_batches gradient| over the forget side: the absolute value after the sum: opposite signs cancel (SalUn)."""
    total = zeros(weights)
    with trainable(weights):
        for batch in batches:
            loss = denoising_loss(model, batch["forget"], guidance, empty)
            add_gradients(loss, weights, lambda name, gradient: total[name].add_(gradient))
    return {name: gradient.abs() for name, gradient in total.items()}


def ratio(forget: Saliency, retain: Saliency) -> Saliency:
    """S_f / (S_r + mean S_r), the mean over each layer: what matters to the concept and to little else."""
    return {name: s / (retain[name] + retain[name].mean() + 1e-20) for name, s in forget.items()}
