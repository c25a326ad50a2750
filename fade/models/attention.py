"""The attention maps of a U-Net, recorded while it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor


@contextmanager
def recorded(unet: UNet2DConditionModel) -> Iterator[list[Tensor]]:
    """Inside, every cross-attention layer appends its probabilities (B, heads, h·w, L) to the list, gradients kept."""
    maps: list[Tensor] = []
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    before = [layer.processor for layer in layers]
    checkpointing = unet.is_gradient_checkpointing  # it would compute, in the backward pass, without recording
    if checkpointing:
        unet.disable_gradient_checkpointing()
    for layer in layers:
        layer.set_processor(_Recording(maps))
    try:
        yield maps
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.set_processor(processor)
        if checkpointing:
            unet.enable_gradient_checkpointing()


class _Recording(AttnProcessor):
    """diffusers' plain attention, which computes its probabilities, and keeps them."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def __call__(self, attn: Any, *args: Any, **settings: Any) -> Tensor:
        scores = attn.get_attention_scores

        def recorded(*given: Any) -> Tensor:
            found = scores(*given)
            self.maps.append(found.unflatten(0, (-1, attn.heads)))
            return found

        attn.get_attention_scores = recorded
        try:
            return super().__call__(attn, *args, **settings)
        finally:
            del attn.get_attention_scores
