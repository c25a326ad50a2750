"""The published sizes, from their public configurations on the meta device: what the presets' names find there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel, SanaTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn

from fade.adapters.lora import chosen
from fade.published import names, published

pytestmark = pytest.mark.slow


def sdxl() -> nn.Module:
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def sd35_medium() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )


def flux_dev() -> nn.Module:
    return FluxTransformer2DModel(guidance_embeds=True)


def sana() -> nn.Module:
    return SanaTransformer2DModel()


SIZES: dict[str, tuple[Callable[[], nn.Module], float, int, int, float]] = {
    # denoiser's parameters in billions, candidate layers, candidate weights in millions, a rank-4 adapter's in millions
    "sdxl": (sdxl, 2.567, 560, 955, 5.81),
    "sd35_medium": (sd35_medium, 2.243, 242, 571, 2.974),
    "sana": (sana, 1.604, 160, 803, 2.87),
    "flux_dev": (flux_dev, 11.901, 266, 2510, 6.54),
}


@pytest.mark.parametrize("preset", SIZES)
def test_the_presets_names_are_the_published_models(preset: str) -> None:
    make, billions, layers, millions, rank_4 = SIZES[preset]
    with init_empty_weights():
        network = make()
    assert sum(p.numel() for p in network.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)
    found: dict[str, Any] = chosen(network, published("fade", preset=preset)["adapter"]["targets"], "fade")
    if preset == "sd35_medium":
        del found["transformer_blocks.23.attn.add_q_proj"]  # StableDiffusion3.idle
    assert len(found) == layers
    assert sum(m.weight.numel() for m in found.values()) / 1e6 == pytest.approx(millions, rel=2e-3)
    assert 4 * sum(sum(m.weight.shape) for m in found.values()) / 1e6 == pytest.approx(rank_4, rel=2e-3)


@pytest.mark.parametrize("preset", SIZES)
def test_what_a_method_trains_is_found_there(preset: str) -> None:
    """Every method's names find weights; SEOT and SAFREE change none, and STEREO is not for FLUX."""
    with init_empty_weights():
        weights = [name for name, _ in SIZES[preset][0]().named_parameters()]
    for method in names():
        adapter = published(method, preset=preset)["adapter"]
        low_rank = "lora" in adapter["_target_"]
        targets = [f"{re.escape(t)}\\.weight$" if low_rank else t for t in adapter.get("targets", [])]
        missed = not any(re.search(target, weight) for target in targets for weight in weights)
        assert missed == (method in ("seot", "safree") or (method == "stereo" and preset.startswith("flux"))), method
