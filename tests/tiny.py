"""What the tiny model is made of."""

from __future__ import annotations

from fade.pretrain.diffusion import DiffusionSettings


def tiny_settings(text_width: int = 32) -> DiffusionSettings:
    return DiffusionSettings(
        steps=1,
        batch=1,
        rate=1e-3,
        ema=0.9,
        widths=[16, 32],
        layers=1,
        text_width=text_width,
        text_layers=1,
        max_length=16,
        empty=0.1,
        partial=0.1,
        time_power=1.0,
        sampling_steps=2,
        guidance=3.0,
    )
