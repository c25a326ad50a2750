"""The attacker's own judge: a linear reading of what the base model's network sees in an image.

Another architecture than the judge that reports, so that what is selected by one is not what fools the other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fade.attacks import spread
from fade.console import Stage
from fade.data.dataset import Dataset, Item
from fade.errors import BadInput
from fade.files import content_hash, unharmed
from fade.models import Diffusion
from fade.tensors import read_tensors, tensors_hash, write_tensors

log = logging.getLogger(__name__)
RIDGE, EARLY, AT_ONCE = 100.0, 0.1, 36  # of the regression; the share of T at which images are read; images
SEES = 0.75  # of real images: a judge that reads fewer right chooses badly


class Probe:
    """Ridge regression from the base's activations at small t, under the empty prompt, to the labels of one domain."""

    def __init__(self, base: Diffusion, labels: list[str], tensors: dict[str, Tensor]) -> None:
        self.base, self.labels, self.tensors = base, labels, tensors

    @classmethod
    def of(cls, base: Diffusion, dataset: Dataset, domain: str, images: int, cache: Path) -> Probe:
        """Fitted on `images` real images of each label, spread over the cells, from the cache where it is there; nobody
        else sees them. One that reads too few of them right says so."""
        labels = dataset.domains[domain]
        items = spread(_items(dataset), dataset, dataset.cells())[: images * max(map(len, dataset.domains.values()))]
        if not items:
            raise BadInput(f"{dataset.name} has no images that the attacker could learn to judge by")
        parts = [dataset.fingerprint(items, base.size), dataset.domains, base.sha256(), RIDGE, EARLY]
        path = cache / "attacks" / f"probe-{content_hash(parts)}.safetensors"
        found = unharmed(path, read_tensors)
        if found is None:
            write_tensors(path, _fitted(base, dataset, items))
            found = read_tensors(path)
        made = cls(base, labels, _of_domain(found[0], domain))
        if made.accuracy < SEES:
            log.warning(
                f"the attacker's own judge reads {made.accuracy:.0%} of {len(items)} real images right, and may not "
                "see what comes back; attack.judge_images gives it more"
            )
        return made

    @property
    def accuracy(self) -> float:
        """Of the images that it was fitted on, each read by a fit without it."""
        return self.tensors["accuracy"].item()

    @property
    def identity(self) -> str:
        return tensors_hash(self.tensors)

    def features(self, images: Tensor) -> Tensor:
        """(N, F) of images (N, 3, H, W) in [0, 1], each of spread 1 over what it was fitted on."""
        return (activations(self.base, images) - self.tensors["mean"]) / self.tensors["std"]

    def scores(self, images: Tensor) -> Tensor:
        """(N, labels) of images (N, 3, H, W) in [0, 1]: about 1 for what it shows, about 0 for the others."""
        return self.features(images) @ self.tensors["weight"] + self.tensors["bias"]


def _items(dataset: Dataset) -> list[Item]:
    return dataset.items("judge") or dataset.items("train")


def _fitted(base: Diffusion, dataset: Dataset, items: Sequence[Item]) -> dict[str, Tensor]:
    """For every domain at once: the images pass the network once."""
    parts = [[*items[i : i + AT_ONCE]] for i in range(0, len(items), AT_ONCE)]
    stage, found = Stage("the attacker learns to judge", len(items), "while the attacker learns to judge, at image"), []
    for part in parts:
        found.append(activations(base, dataset.images(part, base.size).float() / 255))
        stage.done(stage.number + len(part))
    x = torch.cat(found)
    mean, std = x.mean(0), x.std(0) + 1e-6
    a, fits = (x - mean) / std, {"mean": mean, "std": std}
    for domain, labels in dataset.domains.items():
        known = dataset.labels([*items], domain)
        fits |= {f"{name} of {domain}": value for name, value in ridge(a, one_hot(known, len(labels)).to(a)).items()}
    return fits


def ridge(a: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of a (N, F), columns of mean 0, to y (N, labels): weight (F, labels), bias (labels), and accuracy, the share of
    rows whose label a fit without them gives (leave-one-out by the hat matrix; Hastie et al., 2009, eq. 7.64)."""
    inverse = torch.linalg.inv(a.T @ a + RIDGE * torch.eye(a.shape[1]))
    weight = inverse @ (a.T @ (y - y.mean(0)))
    own = ((a @ inverse) * a).sum(1, keepdim=True) + 1 / len(a)  # what each row has in its own reading
    without = y - (y - a @ weight - y.mean(0)) / (1 - own)
    right = (without.argmax(1) == y.argmax(1)).to(a).mean()
    return {"weight": weight, "bias": y.mean(0), "accuracy": right}


def _of_domain(tensors: dict[str, Tensor], domain: str) -> dict[str, Tensor]:
    own = {name: tensors[f"{name} of {domain}"] for name in ("weight", "bias", "accuracy")}
    return {"mean": tensors["mean"], "std": tensors["std"], **own}


@torch.no_grad()
def activations(base: Diffusion, images: Tensor) -> Tensor:
    """(N, F) on the CPU: mean and spread over the positions, of every stage of the network."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(_spread(out))

    hooks = [stage.register_forward_hook(keep) for stage in _stages(base.network)]
    found = []
    try:
        for part in images.split(AT_ONCE):
            seen.clear()
            z = base.encode(part)
            t = torch.full((len(z),), int(EARLY * base.train_steps), device=z.device)
            base.predict(base.noised(z, t, torch.zeros_like(z)), t, base.embed([""] * len(z)))
            found.append(torch.cat(seen, 1).float().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found)


def _spread(out: Any) -> Tensor:
    """(N, 2 C): of a U-Net's stage, whose map (N, C, h, w) comes first, or of a transformer's block, whose rows of the
    image (N, h·w, C) come last, behind the text's."""
    parts = [out] if isinstance(out, Tensor) else [*out]
    image, places = (parts[0], (2, 3)) if parts[0] is not None and parts[0].dim() == 4 else (parts[-1], (1,))
    return torch.cat([image.mean(places), image.std(places)], 1)


def _stages(network: nn.Module) -> list[nn.Module]:
    """A U-Net's levels, or a transformer's blocks. Raises BadInput for a network that has neither."""
    if blocks := [*getattr(network, "transformer_blocks", ()), *getattr(network, "single_transformer_blocks", ())]:
        return blocks
    try:
        return [*network.down_blocks, network.mid_block, *network.up_blocks]  # type: ignore[misc,union-attr]
    except (AttributeError, TypeError):
        raise BadInput(f"{type(network).__name__} has no blocks that the attacker could judge images by") from None
