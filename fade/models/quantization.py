"""Weights of 4 bits: bitsandbytes' NF4, made by diffusers while a pipeline is read, and what keeps one from them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import PipelineQuantizationConfig
from torch import nn

from fade.errors import BadInput
from fade.files import read_json

Quantization = Literal["nf4"]
BLOCK = 64  # numbers that share a scale: bitsandbytes' default


def nf4(parts: Sequence[str], dtype: str) -> PipelineQuantizationConfig:
    """Of these parts of a pipeline: QLoRA's NF4 (arXiv 2305.14314) with one scale for 64 numbers, as diffusers and
    bitsandbytes have it by default, where QLoRA quantises the scales once more. Computed in `dtype`."""
    settings = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": getattr(torch, dtype),
        "bnb_4bit_use_double_quant": False,
    }
    return PipelineQuantizationConfig("bitsandbytes_4bit", settings, components_to_quantize=list(parts))


def packed_at(folder: Path) -> bool:
    """Whether a part of a pipeline was saved in bitsandbytes' 4 or 8 bits."""
    file = folder / "config.json"
    config = read_json(file).get("quantization_config") if file.is_file() else None
    return config is not None and config.get("quant_method") == "bitsandbytes"


def packing(
    where: Path, denoiser: str, parts: Sequence[str], dtype: str, quantization: Quantization | None
) -> dict[str, Any]:
    """What diffusers is to be told beside the rest for a pipeline, a folder or a name of the hub, to be read. Raises
    BadInput where it cannot pack it, or not read what is packed already."""
    if quantization and where.is_file():
        raise BadInput(f"{where} is a single file, which diffusers cannot pack; give a pipeline's folder")
    if quantization or packed_at(where / denoiser):
        check_packing()
    return {"quantization_config": nf4(parts, dtype)} if quantization else {}


def check_packing() -> None:
    """Raises BadInput where diffusers can neither pack weights nor read packed ones."""
    if find_spec("bitsandbytes") is None:
        raise BadInput("weights in 4 bits need bitsandbytes, which is not installed: pip install bitsandbytes")
    if not torch.accelerator.is_available():
        raise BadInput(
            "weights in 4 bits need a GPU, on which diffusers packs and reads them, and this machine has none; go to "
            "one that has, or take weights that are not packed (model.quantization=null)"
        )


def check_gradients(network: nn.Module) -> None:
    """Raises BadInput for 4-bit layers on a CPU with AVX-512: when they are first called without a gradient,
    bitsandbytes turns them into a format for inference, of which there is none."""
    for name, layer in network.named_modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False) and layer.weight.device.type == "cpu":
            raise BadInput(
                f"{name.removesuffix('.base_layer')} is in 4 bits on a CPU, where bitsandbytes has no gradient through "
                'it; move the pipeline to a GPU first: pipe.to("cuda")'
            )
