"""Stage one: what carries the concept. S = Σ_batches |∂ MSE(ε_θ(z_t, t, c), ε) / ∂θ|  (FADE, arXiv 2602.07058)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.data.pairs import Batch, Example
from fade.gradients import add_gradients, trainable
from fade.models import Diffusion
from fade.models.embedding import Embedding

Scores = dict[str, Tensor]  # name of a weight -> its shape, non-negative


@dataclass(frozen=True)
class Sides:
    """A layer's scores (out, in), summed each way. Of FLUX's candidates these are 6.5 MB, the scores 10 GB."""

    rows: Tensor  # (out,)
    cols: Tensor  # (in,)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), len(self.cols)))

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def sum(self, dim: int | None = None) -> Tensor:
        return self.rows.sum() if dim is None else (self.cols, self.rows)[dim]

    def mean(self) -> Tensor:
        return self.rows.sum() / self.shape.numel()


Saliency = Mapping[str, Tensor | Sides]  # whole, or as much of it as masks of whole rows and columns ask for


def whole(saliency: Saliency) -> Scores:
    """Scores of single weights, where they are."""
    return {name: scores for name, scores in saliency.items() if isinstance(scores, Tensor)}


def flat(saliency: Saliency) -> Scores:
    """As a file holds it."""
    pairs = {name: scores for name, scores in saliency.items() if isinstance(scores, Sides)}
    rows = {f"{name}.rows": scores.rows for name, scores in pairs.items()}
    return whole(saliency) | rows | {f"{name}.cols": scores.cols for name, scores in pairs.items()}


def gathered(tensors: Scores) -> Saliency:
    """What `flat` laid out."""
    names = [name.removesuffix(".rows") for name in tensors if name.endswith(".rows")]
    pairs = {name: Sides(tensors[f"{name}.rows"], tensors[f"{name}.cols"]) for name in names}
    return {name: scores for name, scores in tensors.items() if not name.endswith((".rows", ".cols"))} | pairs


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


def zeros(weights: dict[str, Tensor]) -> Scores:
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
) -> Scores:
    """Σ_batches |gradient| over the forget or the retain side, streaming, for `weights` only."""
    with trainable(model, weights) as leaves:
        total = zeros(leaves)
        for batch in batches:
            example = batch["forget"] if side == "forget" else batch["retain"]
            loss = denoising_loss(model, example, guidance, empty)
            add_gradients(loss, leaves, lambda name, gradient: total[name].add_(gradient.abs()))
    return total


def sides_of_abs(model: Diffusion, weights: dict[str, Tensor], batches: Iterable[Batch]) -> dict[str, Sides]:
    """`sum_of_abs` over the forget side, summed along rows and columns batch by batch: never all scores are there."""
    with trainable(model, weights) as leaves:
        rows = zeros({name: leaf[:, 0] for name, leaf in leaves.items()})
        cols = zeros({name: leaf[0] for name, leaf in leaves.items()})

        def add(name: str, gradient: Tensor) -> None:
            score = gradient.abs()
            rows[name].add_(score.sum(1, dtype=rows[name].dtype))
            cols[name].add_(score.sum(0, dtype=cols[name].dtype))

        for batch in batches:
            add_gradients(denoising_loss(model, batch["forget"]), leaves, add)
    return {name: Sides(rows[name], cols[name]) for name in leaves}


def sum_of_signed(
    model: Diffusion,
    weights: dict[str, Tensor],
    batches: Iterable[Batch],
    guidance: float = 0.0,
    empty: Embedding | None = None,
) -> Scores:
    """|Σ_batches gradient| over the forget side: the absolute value after the sum: opposite signs cancel (SalUn)."""
    with trainable(model, weights) as leaves:
        total = zeros(leaves)
        for batch in batches:
            loss = denoising_loss(model, batch["forget"], guidance, empty)
            add_gradients(loss, leaves, lambda name, gradient: total[name].add_(gradient))
    return {name: gradient.abs() for name, gradient in total.items()}


def ratio(forget: Scores, retain: Scores) -> Scores:
    """S_f / (S_r + mean S_r), the mean over each layer: what matters to the concept and to little else."""
    return {name: s / (retain[name] + retain[name].mean() + 1e-20) for name, s in forget.items()}
