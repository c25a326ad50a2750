"""What a model and a method take before any weight is there, on the meta device: parameters, bytes, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.runs._memory import Peak, fused_attention
from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.masked import shape_of
from fade.adapters.matrix import Matrix
from fade.data.pairs import Batch, Example
from fade.methods.fade import Fade
from fade.models import Diffusion
from fade.sparsity import summed
from fade.training.recipe import Recipe

UNCOUNTED = "(predicted, of FADE's losses and without a GPU; not counted: autocast, what kernels and an allocator add)"
SCORED = ("module", "neuron", "weight")  # sparsities that ask stage one


@dataclass(frozen=True)
class Size:
    """parts: parameters, by the pipeline's names. weights: bytes of all of them. layers, candidates: weights under the
    adapter, and of how many numbers. trained: numbers that the optimizer gets, none of a closed form. dense, file:
    bytes of the adapter's tensors without its masks and, roughly, with them. step, locating: bytes that are alive at
    once in a step of training and in stage one; None where there is none. batch, size: images of either side in a step,
    and theirs in pixels."""

    parts: dict[str, int]
    weights: int
    layers: int
    candidates: int
    trained: int
    dense: int
    file: int
    step: int | None
    locating: int | None
    batch: int
    size: int


def sized(model: Diffusion, recipe: Recipe) -> Size:
    """Of a model on the meta device, which is left as it was. A step is counted where what denoises is trained."""
    parts = {name: parameters(part) for name, part in model.named_children()}
    peak = Peak([*model.parameters(), *model.buffers()])
    weights = peak.now
    with peak:
        adapter = recipe.attach(model)
    candidates, sparsity, trained = adapter.weights(), recipe.sparsity, bool(recipe.method.terms)
    try:
        return Size(
            parts,
            weights,
            len(candidates),
            adapter.candidates(),
            sum(p.numel() for p in adapter.parameters()) if trained else 0,
            file_bytes(adapter, "dense", 1.0),
            file_bytes(adapter, getattr(sparsity, "shape", sparsity).kind, sparsity.p),
            step_bytes(peak, model, adapter, recipe) if trained and recipe.method.part == "network" else None,
            locating_bytes(peak, model, adapter, recipe) if sparsity.kind in SCORED else None,
            recipe.pairs["batch"],
            model.size,
        )
    finally:
        adapter.detach()


def parameters(part: nn.Module) -> int:
    """How many there are, packed ones by what they stand for."""
    linear = {id(m.weight): math.prod(shape_of(m)) for m in part.modules() if isinstance(m, nn.Linear)}
    return sum(linear.get(id(p), p.numel()) for p in part.parameters())


def file_bytes(adapter: Adapter, sparsity: str, p: float) -> int:
    """Of the tensors of its file: numbers of 4 bytes; places of kept rows and columns of 2; a bit for each weight under
    a mask of single ones, which leaves nearly all rows and columns."""
    every = adapter.candidates()
    bits = every // 8 if sparsity == "weight" else 0
    if isinstance(adapter, Matrix):
        return 4 * max(weight.shape[1] for weight in adapter.weights().values()) ** 2
    if not isinstance(adapter, Lora):
        return round(4 * p * every) + (every // 8 if p < 1 else 0)
    sides = sum(sum(shape_of(layer)) for layer in adapter.layers.values())
    share = {"module": p, "neuron": math.sqrt(p)}.get(sparsity, 1.0)
    places = 2 * sides * share if sparsity == "neuron" else 0
    return round(4 * adapter.rank * sides * share + places) + bits


def step_bytes(peak: Peak, model: Diffusion, adapter: Adapter, recipe: Recipe) -> int:
    """Of the second of two steps of FADE's losses, both sides in one pass: the optimizer's own numbers are there.
    peak: has seen the adapter come."""
    peak.most = peak.now
    optimizer = recipe.optimizer(adapter.parameters())
    given = batch(model, recipe.pairs["batch"])
    with peak, fused_attention():
        for _ in range(2):
            optimizer.zero_grad()
            torch.stack(list(Fade().losses(model, adapter, given).values())).sum().backward()
            optimizer.step()
    optimizer.zero_grad()
    return peak.most


def locating_bytes(peak: Peak, model: Diffusion, adapter: Adapter, recipe: Recipe) -> int:
    """Of one batch of stage one, the sums over all candidates with it."""
    peak.most = peak.now
    given = batch(model, recipe.schedule["locate_batch"])
    with peak, fused_attention():
        Fade().locate(model, adapter, [given], summed(recipe.sparsity, adapter))
    return peak.most


def batch(model: Diffusion, n: int) -> Batch:
    """n examples of either side, without values."""
    embedding = model.embed(["a caption"] * n)
    side = model.size // model.pipe.vae_scale_factor
    latents = torch.empty(n, model.channels, side, side, dtype=model.network.dtype, device=model.device)
    example = Example(
        latents=latents,
        prompt=embedding,
        surrogate=embedding,
        concept=torch.empty(n, 0),
        end=torch.empty(n),
        row=torch.empty(n),
        t=model.process.draw(n, model.device),
        noise=torch.empty_like(latents),
    )
    return Batch(forget=example, retain=example, anchor=example)


def precision(model: Diffusion) -> str:
    """ "bfloat16", or "NF4 and bfloat16"."""
    packed = any(not p.is_floating_point() for p in model.parameters())
    return "NF4 and " * packed + str(model.network.dtype).removeprefix("torch.")


def said(size: Size, precision: str) -> str:
    """In lines, as task=plan prints it."""
    parts = ", ".join(f"{name} {counted(n)}" for name, n in size.parts.items())
    memory = [
        f"{what} {size_of(n)}"
        for what, n in (("a step of training", size.step), ("stage one", size.locating))
        if n is not None
    ]
    lines = [
        f"parameters: {parts}; all of them {size_of(size.weights)} in {precision}",
        f"under the adapter: {size.layers} weights of {counted(size.candidates)} numbers; trained: "
        f"{counted(size.trained)} numbers; its file: about {size_of(size.file)}, without masks {size_of(size.dense)}",
    ]
    if memory:
        lines.append(f"memory at {size.size} px, {size.batch} + {size.batch} images a step: {', '.join(memory)}")
        lines.append(UNCOUNTED)
    return "\n".join(lines)


def counted(n: int) -> str:
    return f"{n / 1e9:.3f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"


def size_of(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
