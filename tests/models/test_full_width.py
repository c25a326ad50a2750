"""Blocks of every family as wide as the published ones, random weights, through both stages on the CPU (slow; 8 GB)."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, SanaTransformer2DModel
from families import CAPTIONS, flux, sana, sd3, sdxl
from torch import nn

import fade
from benchmarks.runs import architectures
from fade.adapters.lora import Lora
from fade.models import Noise
from fade.tensors import tensors_hash

pytestmark = pytest.mark.slow


def narrowed(pipe: DiffusionPipeline, **fewer: Any) -> nn.Module:
    """The denoiser as wide as the published one, with random weights and fewer blocks."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    given = {key: value for key, value in network.config.items() if not key.startswith("_")}
    made: nn.Module = type(network)(**given | fewer)
    return made


def published(model: Callable[[], DiffusionPipeline]) -> DiffusionPipeline:
    with torch.device("meta"):
        return model()


def one_sdxl() -> DiffusionPipeline:
    """One transformer block where the published U-Net has two and ten, one layer where it has two."""
    fewer = {"layers_per_block": 1, "transformer_layers_per_block": (1, 1, 1)}
    return sdxl(narrowed(published(architectures.sdxl), sample_size=8, **fewer), (768, 1280))


def one_sd35_medium() -> DiffusionPipeline:
    """The last block makes no text for a next one, so there are two."""
    fewer = {"num_layers": 2, "dual_attention_layers": (0,), "pos_embed_max_size": 8}
    return sd3(narrowed(published(architectures.sd35_medium), sample_size=8, **fewer), (768, 1280), 4096, 16)


def one_flux_dev() -> DiffusionPipeline:
    """One of either kind of block."""
    return flux(FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True), 768, 4096, 16)


def one_sana() -> DiffusionPipeline:
    return sana(SanaTransformer2DModel(num_layers=1, sample_size=8), 2304, 32)


ONE: dict[str, tuple[Callable[[], DiffusionPipeline], int, int]] = {  # candidate layers, the widest side of one
    "sdxl": (one_sdxl, 56, 2048),
    "sd35_medium": (one_sd35_medium, 18, 1536),
    "flux_dev": (one_flux_dev, 11, 3072),
    "sana": (one_sana, 8, 2240),
}


@pytest.mark.parametrize("preset", ONE)
def test_both_stages_at_full_width(preset: str, tmp_path: Path) -> None:
    """Located, distilled and saved by the library's own call; on, the images are others, and off they are the same."""
    torch.manual_seed(0)
    make, layers, width = ONE[preset]
    pipe = make()
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()  # as every read pipeline is: T5 drops out else
    short = {"steps": 1, "images": 1, "sampling_steps": 1, "batch": 1, "retain": CAPTIONS[2:]}
    handle = fade.unlearn(pipe, "neon", "photo", templates=["A cat image in {} style."], lr=1e-2, **short)
    model = handle.model
    model.steps = 2
    before, clean = tensors_hash(model.network.state_dict()), model.generate(CAPTIONS[:1], [Noise(0)])
    handle.save(tmp_path / "adapter")
    with fade.load(pipe, tmp_path / "adapter") as on:
        adapter = on.adapter
        assert isinstance(adapter, Lora) and len(adapter.layers) == layers
        assert max(max(weight.shape) for weight in adapter.weights().values()) == width
        assert all(layer.lora_B[adapter.name].weight.any() for layer in adapter.layers.values())  # each one learnt
        assert 0.09 < adapter.density() < 0.11
        changed = model.generate(CAPTIONS[:1], [Noise(0)])
    assert changed.isfinite().all() and not torch.equal(changed, clean)
    assert torch.equal(model.generate(CAPTIONS[:1], [Noise(0)]), clean)
    assert tensors_hash(model.network.state_dict()) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8e6  # kilobytes
