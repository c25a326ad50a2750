"""Linear layers that keep four bits a number, and the pipelines that hold them."""

from __future__ import annotations

from functools import partial

import torch
from families import tiny
from torch import Tensor, nn
from torch.nn.functional import linear

from fade.attacks.numerics import LEVELS
from fade.files import shipped
from fade.models import Diffusion
from fade.models.stable_diffusion import StableDiffusion

EMBEDDED = partial(StableDiffusion.load, shipped("canvas/pipeline"), 3, 3.0)


class Packed(nn.Linear):
    """Two numbers a byte, bytes (n / 2, 1), as in bitsandbytes' Linear4bit; one scale for all of them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.register_buffer("scale", layer.weight.abs().max())
        codes = (layer.weight / self.scale).flatten()[:, None].sub(torch.tensor(LEVELS)).abs().argmin(1).byte()
        self.weight = nn.Parameter((codes[::2] << 4 | codes[1::2])[:, None], requires_grad=False)
        self.bias = layer.bias

    def unpacked(self) -> Tensor:
        codes = torch.cat([self.weight >> 4, self.weight & 15], 1).long()
        return (torch.tensor(LEVELS)[codes] * self.scale).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.unpacked(), self.bias)


def packed(family: str = "sd3") -> tuple[Diffusion, Diffusion]:
    """A tiny pipeline, of Stable Diffusion 1 the embedded one, with packed layers in its blocks, and one whose weights
    are what those stand for."""
    model, dense = (EMBEDDED() if family == "sd1" else tiny(family) for _ in range(2))
    for name, layer in list(model.network.named_modules()):
        if isinstance(layer, nn.Linear) and "block" in name:
            made, (parent, _, own) = Packed(layer), name.rpartition(".")
            setattr(model.network.get_submodule(parent), own, made)
            dense.network.get_submodule(name).weight.data = made.unpacked()
    return model, dense
