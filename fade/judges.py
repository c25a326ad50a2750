"""A judge: a timm classifier with its labels and its preprocessing, saved and loaded as one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fade.errors import BadInput
from fade.files import read_json, read_tensors, write_json, write_tensors


class Judge(nn.Module):
    """Maps images (B, 3, H, W) in [0, 1] to logits over `labels`, and to pooled features for `fid_judge`.

    `size`, `mean`, `std`: its preprocessing (bilinear, antialiased), a part of the judge and stored with it.
    `accuracy`: measured on held-out real images when it was trained; None where unknown.
    """

    def __init__(
        self,
        architecture: str,
        domain: str,
        labels: list[str],
        size: int,
        mean: float = 0.5,
        std: float = 0.5,
        accuracy: float | None = None,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "architecture": architecture, "domain": domain, "labels": labels, "size": size, "mean": mean, "std": std,
        }  # fmt: skip
        self.domain, self.labels, self.size, self.accuracy = domain, labels, size, accuracy
        self.mean, self.std = mean, std
        self.network = timm.create_model(architecture, pretrained=False, num_classes=len(labels))

    def prepare(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.size:
            images = interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images))

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, D) before the classifier."""
        return self.network.forward_head(self.network.forward_features(self.prepare(images)), pre_logits=True)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Convolutional feature maps from fine to coarse, for the autoencoder's feature loss."""
        return self.network.forward_intermediates(self.prepare(images), intermediates_only=True)

    def save(self, folder: Path) -> None:
        write_tensors(folder / "model.safetensors", self.network.state_dict())
        write_json(folder / "judge.json", {**self.settings, "accuracy": self.accuracy})

    @classmethod
    def load(cls, folder: Path | str) -> Judge:
        """Read a judge's folder. Raises BadInput where a file is missing or the weights do not fit."""
        folder = Path(folder)
        for file in ("judge.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise BadInput(f"no judge at {folder}: {file} is missing; train one with task=pretrain")
        judge = cls(**read_json(folder / "judge.json"))
        tensors, _ = read_tensors(folder / "model.safetensors")
        try:
            judge.network.load_state_dict(tensors)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise BadInput(f"{folder / 'model.safetensors'} does not fit {judge.settings['architecture']}: {first}") from None
        return judge.eval()


@torch.no_grad()
def accuracy(judge: Judge, images: Tensor, labels: Tensor, batch: int = 256) -> float:
    """Fraction of images (N, 3, H, W; uint8 or [0, 1] floats) that the judge labels right."""
    right = 0
    for chunk, truth in zip(images.split(batch), labels.split(batch), strict=True):
        pixels = chunk.float() / 255 if chunk.dtype == torch.uint8 else chunk
        right += int((judge(pixels).argmax(-1) == truth).sum())
    return right / len(labels)
