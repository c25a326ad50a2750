"""Linear layers in NF4 without their values, on the meta device: the bytes they keep, and what they unpack to run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fade.models.quantization import BLOCK


class Packed(nn.Linear):
    """Two numbers a byte, bytes (n / 2, 1), and a scale in single precision for each block, as in bitsandbytes'
    Linear4bit: 4.5 bits a number. What it stands for is there while it is multiplied, forth and back."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, False, "meta", layer.weight.dtype)
        n = layer.weight.numel()
        codes = torch.empty((n + 1) // 2, 1, dtype=torch.uint8, device="meta")
        self.weight, self.bias = nn.Parameter(codes, requires_grad=False), layer.bias
        self.register_buffer("absmax", torch.empty((n + BLOCK - 1) // BLOCK, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return _Unpacked.apply(x, self.bias, self.out_features)  # type: ignore[no-untyped-call, no-any-return]


class _Unpacked(torch.autograd.Function):
    """x (..., in) -> (..., out). The weight is unpacked anew on the way back, and nothing of x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, out: int) -> Tensor:
        ctx.into = x.shape[-1]
        return linear(x, x.new_empty(out, ctx.into), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return g @ g.new_empty(g.shape[-1], ctx.into), None, None


def pack(part: nn.Module) -> None:
    """Every linear layer, as diffusers and transformers do it, but those that the part's class keeps as they are: T5's
    second layer of each feed-forward block."""
    kept = set(getattr(part, "_keep_in_fp32_modules", None) or ())
    for name, layer in list(part.named_modules()):
        if type(layer) is nn.Linear and not kept & set(name.split(".")):
            part.set_submodule(name, Packed(layer))
