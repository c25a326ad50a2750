"""fade.unlearn in a second, and the image that shows it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionPipeline

SHORT: dict[str, Any] = {
    "templates": ["A cat image in {}.", "A fish image in {}."],
    "retain": ["A car image in sketch style.", "A tree image."],
    "images": 2,
    "sampling_steps": 2,
    "guidance": 3.0,
    "steps": 3,
    "batch": 2,
    "lr": 1e-2,
}


def image(pipe: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("A cat image in neon style.", num_inference_steps=2, generator=generator, output_type="pt").images
