"""Backbones of the Fréchet and kernel distances, each named in its metric's key: their values cannot be compared.

judge        features of this dataset's judges; no Inception FID, and called `fid_judge`. Where `task=pretrain` made the
             pipeline, these judges' features taught its autoencoder (conf/pretrain), and its pictures are judged by
             what they were trained to please: flattering to the base, fair between methods on one base
inception    torch-fidelity's Inception v3 of 2015 (the usual FID), `fid_inception`
torchvision  torchvision's Inception v3 as UnlearnCanvas's fid.py uses it, `fid_torchvision`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchvision.models import inception_v3

from fade.errors import BadInput
from fade.files import content_hash
from fade.judges import Judge, Look, read_state
from fade.tensors import tensors_hash


class Backbone(Protocol):
    identity: str  # changes with its weights

    def __call__(self, images: Tensor, looks: Mapping[str, Look]) -> Tensor:
        """Features (N, D) of images (N, 3, H, W) uint8; looks: what the judges have made of them already."""


class JudgeFeatures:
    """The pooled features of all judges side by side."""

    def __init__(self, judges: dict[str, Judge]) -> None:
        self.identity = content_hash([judge.identity for judge in judges.values()])

    def __call__(self, images: Tensor, looks: Mapping[str, Look]) -> Tensor:
        return torch.cat([look.features for look in looks.values()], 1)


class Inception:
    """torch-fidelity's network through torchmetrics, 2048 pooled features. weights: its published .pth, on disk."""

    def __init__(self, weights: str, device: torch.device) -> None:
        _needs(weights, "inception")
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights).to(device)
        except ModuleNotFoundError:
            raise BadInput("fid_inception needs torch-fidelity: pip install 'fade-unlearning[fid]'") from None
        self.device, self.identity = device, tensors_hash(self.network.state_dict())

    @torch.no_grad()
    def __call__(self, images: Tensor, looks: Mapping[str, Look]) -> Tensor:
        return self.network(images.to(self.device)).cpu()


class TorchvisionInception:
    """What UnlearnCanvas's fid.py computes: 512 px, then 299 px (bilinear, not antialiased), x·2 − 1, torchvision's own
    transform_input on top, and the average of Mixed_7c. weights: torchvision's inception_v3 state dict, on disk."""

    def __init__(self, weights: str, device: torch.device) -> None:
        _needs(weights, "torchvision")
        self.network = inception_v3(weights=None, transform_input=True, init_weights=False).to(device).eval()
        state = load_file(weights) if weights.endswith(".safetensors") else read_state(Path(weights), None)
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise BadInput(f"{weights} is no torchvision inception_v3: {str(error).splitlines()[1].strip()}") from None
        self.device, self.identity = device, tensors_hash(state)
        self.network.Mixed_7c.register_forward_hook(self._keep)
        self._maps = torch.empty(0)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        self._maps = maps

    @torch.no_grad()
    def __call__(self, images: Tensor, looks: Mapping[str, Look]) -> Tensor:
        x = images.to(self.device).float() / 255
        for side in (512, 299):
            if x.shape[-1] != side:
                x = interpolate(x, (side, side), mode="bilinear", align_corners=False)
        self.network(x * 2 - 1)
        return adaptive_avg_pool2d(self._maps, 1).flatten(1).cpu()


class ClipScore:
    """Cosine of CLIP's image and caption embeddings × 100, not below 0 (Hessel et al. 2021); model: a local folder."""

    def __init__(self, model: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPProcessor

        if not Path(model).is_dir():
            raise BadInput(f"no CLIP model at {model}; set protocol.clip to its folder")
        try:
            self.network = CLIPModel.from_pretrained(model, local_files_only=True).to(device).eval()
            self.processor = CLIPProcessor.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadInput(f"{model} is no CLIP model: {str(error).splitlines()[0]}") from error
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """(N,) scores."""
        given = self.processor(text=prompts, images=list(images), return_tensors="pt", padding=True, truncation=True)
        made = self.network(**given.to(self.device))
        return (100 * torch.cosine_similarity(made.image_embeds, made.text_embeds)).clamp(min=0).cpu()


def _needs(weights: str | None, name: str) -> None:
    if not weights or not Path(weights).is_file():
        raise BadInput(f"fid_{name} needs its weights on disk; set protocol.backbones.{name}=FILE (now {weights})")


def backbones(
    names: list[str], weights: dict[str, str], judges: dict[str, Judge], device: torch.device
) -> dict[str, Backbone]:
    """The backbones by name. Raises BadInput for an unknown one or missing weights."""
    makers: dict[str, Callable[[], Backbone]] = {
        "judge": lambda: JudgeFeatures(judges),
        "inception": lambda: Inception(weights.get("inception", ""), device),
        "torchvision": lambda: TorchvisionInception(weights.get("torchvision", ""), device),
    }
    for name in names:
        if name not in makers:
            raise BadInput(f"protocol.fid names {name!r}; choose from {', '.join(makers)}")
    return {name: makers[name]() for name in names}
