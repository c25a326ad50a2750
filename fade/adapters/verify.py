"""Every claim of exactness, measured: what is saved is what was trained, and what is removed leaves no trace."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fade.adapters.export import export
from fade.adapters.folder import CYCLES, DTYPES
from fade.adapters.stored import Stored
from fade.errors import BadInput, at_least
from fade.models import Diffusion, Noise
from fade.tensors import tensors_hash


@dataclass(frozen=True)
class Claim:
    """`says`: what was measured, one line. gap: its size; the claim holds where it is 0."""

    name: str
    says: str
    gap: float = 0.0


def claims(stored: Stored, base: Callable[[], Diffusion], cycles: int = CYCLES) -> Iterator[Claim]:
    """Each claim as it is measured. base: reads the pipeline, in float32, for which the adapter was made.

    Raises BadInput where it was made for another one. The last line compares with stock diffusers, and claims nothing.
    """
    at_least(1, cycles=cycles)
    yield Claim("tensors", f"{stored.about['sha256'][:16]} as adapter.json says")
    model = base()
    stored.check_family(model)
    stored.check_base(model)
    yield Claim("base", f"{model.sha256()[:16]} is the one it was made for")
    with tempfile.TemporaryDirectory() as folder:
        gap = round_trip(model, stored, Path(folder))
        yield Claim("round trip", f"max |Δε| {gap:g} between the adapter in memory and reloaded", gap)
        for name in DTYPES:
            model.pipe.to(getattr(torch, name))
            gap, done = reversal(model, stored, cycles)
            yield Claim("reversal", f"{name}: max |ΔW| {gap:g} after {done}", gap)
        yield Claim("stock", stock_drift(base(), stored, Path(folder) / "lora", cycles))


@torch.no_grad()
def predictions(model: Diffusion) -> Tensor:
    """ε of two fixed latents under a prompt."""
    z = torch.cat([model.latent(Noise(1)), model.latent(Noise(2))]).to(model.device, model.network.dtype)
    return model.predict(z, torch.tensor([10, 900], device=model.device), model.embed(["a picture"] * 2))


def round_trip(model: Diffusion, stored: Stored, folder: Path) -> float:
    """max |Δε| between an adapter in memory and the one that it leaves on disk."""
    adapter = stored.attach(model, force=True)
    wanted = predictions(model)
    Stored.of(adapter, {}).write(folder / "again")
    adapter.detach()
    again = Stored.read(folder / "again").attach(model)
    found = predictions(model)
    again.detach()
    return float((found - wanted).abs().max())


def weights_of(model: Diffusion) -> dict[str, Tensor]:
    parts = {part: getattr(model, part) for part in (model.denoiser, *model.encoders)}
    return {f"{part}.{name}": value.clone() for part, own in parts.items() for name, value in own.state_dict().items()}


def largest_gap(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """max |ΔW|; infinite where the tensors are not the same ones, or differ in bits alone."""
    if before.keys() != after.keys():
        return float("inf")
    gap = max(float((before[k].float() - after[k].float()).abs().max()) for k in before)
    return gap if gap or tensors_hash(before) == tensors_hash(after) else float("inf")


def reversal(model: Diffusion, stored: Stored, cycles: int) -> tuple[float, str]:
    """max |ΔW| that an adapter leaves which came and went, and what it went through."""
    before, done = weights_of(model), f"{cycles} cycles of load, merge, unmerge, remove"
    adapter = stored.attach(model, force=True)
    if not adapter.mergeable:
        cycles, done = 0, "load and remove (it cannot be merged)"
    for _ in range(cycles):
        adapter.merge()
        adapter.unmerge()
    adapter.detach()
    return largest_gap(before, weights_of(model)), done


def stock_drift(model: Diffusion, stored: Stored, folder: Path, cycles: int) -> str:
    """What the same cycles do through stock diffusers, for comparison."""
    adapter = stored.attach(model, force=True)
    try:
        export(adapter, folder)
    except BadInput as error:
        return f"no comparison: {error}"
    finally:
        adapter.detach()
    before = weights_of(model)
    model.pipe.load_lora_weights(folder)
    for _ in range(cycles):
        model.pipe.fuse_lora()
        model.pipe.unfuse_lora()
    model.pipe.unload_lora_weights()
    gap = largest_gap(before, weights_of(model))
    return f"fuse_lora and unfuse_lora, {cycles} times: max |ΔW| {gap:.1e}"
