"""A judge: a timm classifier with its labels and its preprocessing, saved and loaded as one folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchmetrics.functional.classification import multilabel_average_precision

from fade.errors import BadInput
from fade.files import content_hash, read_json, write_json
from fade.tensors import read_tensors, tensors_hash, write_tensors


@dataclass(frozen=True)
class Look:
    """What a judge makes of images: probabilities (B, labels) in [0, 1], and pooled features (B, D) before the
    classifier; both on the CPU."""

    probabilities: Tensor
    features: Tensor


class Judge(nn.Module):
    """Maps images (B, 3, H, W) in [0, 1] to logits over `labels`, and to pooled features for `fid_judge`.

    size, crop, mean, std: its preprocessing, a part of the judge and stored with it: resized to size/crop (bilinear,
    antialiased, the aspect not kept, as UnlearnCanvas does), the centre cropped to size. classes: the outputs of the
    network that are the labels, where it has more (ImageNet's thousand). multilabel: labels overlap, each has its own
    sigmoid. accuracy: on held-out real images (mean average precision where multilabel); None where not yet measured.
    """

    def __init__(
        self,
        architecture: str,
        domain: str,
        labels: list[str],
        size: int,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        crop: float = 1.0,
        classes: list[int] | None = None,
        outputs: int | None = None,
        multilabel: bool = False,
        accuracy: float | None = None,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "architecture": architecture,
            "domain": domain,
            "labels": labels,
            "size": size,
            "mean": mean,
            "std": std,
            "crop": crop,
            "classes": classes,
            "outputs": outputs,
            "multilabel": multilabel,
        }
        self.domain, self.labels, self.size, self.crop, self.accuracy = domain, labels, size, crop, accuracy
        self.classes, self.multilabel = classes, multilabel
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)
        self.network = timm.create_model(architecture, pretrained=False, num_classes=outputs or len(labels))

    @cached_property
    def identity(self) -> str:
        """Changes with its settings and its weights."""
        return content_hash([self.settings, tensors_hash(self.network.state_dict())])

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def prepare(self, images: Tensor) -> Tensor:
        side = round(self.size / self.crop)
        if images.shape[-2:] != (side, side):
            images = interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        edge = (side - self.size) // 2
        return (images[..., edge : edge + self.size, edge : edge + self.size] - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return self._own(self.network(self.prepare(images)))

    def _own(self, logits: Tensor) -> Tensor:
        return logits if self.classes is None else logits[:, self.classes]

    def look(self, images: Tensor) -> Look:
        """What the judge makes of images (B, 3, H, W) in [0, 1], in one pass."""
        maps = self.network.forward_features(self.prepare(images.to(self.device)))
        logits = self._own(self.network.forward_head(maps)).float().cpu()
        features = self.network.forward_head(maps, pre_logits=True).float().cpu()
        return Look(logits.sigmoid() if self.multilabel else logits.softmax(-1), features)

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, labels) in [0, 1]."""
        return self.look(images).probabilities

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, D) before the classifier."""
        return self.look(images).features

    def maps(self, images: Tensor) -> list[Tensor]:
        """Convolutional feature maps from fine to coarse, for the autoencoder's feature loss."""
        return self.network.forward_intermediates(self.prepare(images), intermediates_only=True)

    @classmethod
    def pretrained(
        cls,
        domain: str,
        labels: list[str],
        architecture: str,
        checkpoint: str | None,
        key: str | None = None,
        size: int = 224,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        crop: float = 1.0,
        classes: list[int] | None = None,
    ) -> Judge:
        """A timm model with somebody's weights: a local .pth (tensors only) or .safetensors, or timm's own where None.

        key: where the state dict lies within the file. Raises BadInput for a file that is missing, is no state dict, or
        has another number of classes.
        """
        if checkpoint is None:
            network = timm.create_model(architecture, pretrained=True)
            state, name = network.state_dict(), architecture
        else:
            state, name = read_state(Path(checkpoint), key), checkpoint
        head = timm.get_pretrained_cfg(architecture).classifier
        weight = state.get(f"{head}.weight")
        if weight is None:
            raise BadInput(f"{name} holds no {head}.weight; is it a {architecture}?")
        if classes is None and len(weight) != len(labels):
            raise BadInput(
                f"{name} has {len(weight)} classes, the dataset has {len(labels)} {domain}s; give its own classifier"
            )
        judge = cls(architecture, domain, labels, size, mean, std, crop, classes, outputs=len(weight))
        judge.fill(state, name)
        return judge.eval()

    def fill(self, state: dict[str, Tensor], name: str) -> None:
        """Load the network's weights. Raises BadInput where they do not fit."""
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise BadInput(f"{name} does not fit {self.settings['architecture']}: {first}") from None

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
        judge.fill(tensors, str(folder / "model.safetensors"))
        return judge.eval()


def read_state(path: Path, key: str | None) -> dict[str, Tensor]:
    """A state dict from .safetensors or from a .pth of tensors only. Raises BadInput where it is anything else."""
    if not path.is_file():
        raise BadInput(f"no classifier at {path}; give its file")
    try:
        state = read_tensors(path)[0] if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch's and safetensors' readers raise a dozen kinds
        raise BadInput(f"{path} is no file of tensors ({str(error).splitlines()[0]})") from None
    state = state.get(key) if key and isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path} holds no state dict{f' under {key!r}' if key else ''}")
    return {name.removeprefix("module."): value for name, value in state.items()}


@torch.no_grad()
def accuracy(judge: Judge, images: Tensor, labels: Tensor, batch: int = 256) -> float:
    """Fraction of images (N, 3, H, W; uint8 or [0, 1] floats) that the judge labels right; labels (N,) of classes.

    For a multilabel judge labels are (N, classes) of 0 and 1, and the number is the mean average precision.
    """
    parts = [x.float() / 255 if x.dtype == torch.uint8 else x for x in images.split(batch)]
    return right(judge, torch.cat([judge.probabilities(x) for x in parts]), labels)


def right(judge: Judge, probabilities: Tensor, labels: Tensor) -> float:
    """`accuracy` of probabilities (N, classes) that the judge has given."""
    if judge.multilabel:
        return float(multilabel_average_precision(probabilities, labels.long(), num_labels=len(judge.labels)))
    return float((probabilities.argmax(-1) == labels).float().mean())
