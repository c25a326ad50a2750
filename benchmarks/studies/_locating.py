"""What stage one takes: each gradient added as it comes, against all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from benchmarks.runs._memory import Peak, fused_attention
from benchmarks.runs.architectures import without_weights
from benchmarks.runs.size import batch
from benchmarks.studies._clock import Row, in_turn
from benchmarks.studies._speed import BATCH, RANK, embedded, example
from fade.adapters.lora import Lora
from fade.data.pairs import Batch, Example
from fade.gradients import trainable
from fade.models import Diffusion
from fade.saliency import denoising_gradients, sides_of_abs, sum_of_abs, zeros

Way = Callable[[Diffusion, dict[str, Tensor], Example], None]
LARGE = {  # without weights
    "_target_": "fade.models.stable_diffusion.StableDiffusion.load",
    "path": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "steps": 50,
    "guidance": 7.5,
}


def locating_rows(repeats: int, size: int = 64) -> list[Row]:
    """One batch, on the embedded default. Counts: of Stable Diffusion 1.5's size, a batch of one of `size` pixels."""
    model = embedded()
    weights = Lora.attach(model, RANK, RANK).weights()
    arms: dict[str, Callable[[], object]] = {
        what: partial(act, model, weights, example(model, BATCH)) for what, act in WAYS.items()
    }
    rows = in_turn("stage one, a batch", arms, repeats)
    return [replace(row, counts=held(WAYS[row.what], size)) for row in rows]


def all_at_once(model: Diffusion, weights: dict[str, Tensor], given: Example) -> None:
    total = zeros(weights)
    with trainable(model, weights):
        for name, gradient in zip(weights, denoising_gradients(model, weights, given), strict=True):
            total[name].add_(gradient.abs())


def one_at_a_time(model: Diffusion, weights: dict[str, Tensor], given: Example) -> None:
    sum_of_abs(model, weights, [Batch(forget=given, retain=given, anchor=given)], "forget")


def by_rows_and_columns(model: Diffusion, weights: dict[str, Tensor], given: Example) -> None:
    sides_of_abs(model, weights, [Batch(forget=given, retain=given, anchor=given)])


WAYS: dict[str, Way] = {
    "all gradients at once": all_at_once,
    "one at a time": one_at_a_time,
    "summed by rows and columns": by_rows_and_columns,
}


def held(act: Way, size: int) -> dict[str, float]:
    """Bytes of tensors that are alive at once: of the model, and with all else while it is located in, at most."""
    model = without_weights({**LARGE, "size": size})
    peak = Peak([*model.parameters(), *model.buffers()])
    base = peak.now
    with peak, fused_attention():
        act(model, Lora.attach(model, 4, 4).weights(), batch(model, 1)["forget"])
    return {"bytes of base": base, "bytes at most": peak.most, "of base": round(peak.most / base, 3)}
