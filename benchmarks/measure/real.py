"""What judges and backbones say of a dataset's real test images: asked once, for all runs and processes of a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure.features import Backbone
from benchmarks.measure.judging import look
from fade.claims import once
from fade.console import Stage
from fade.data.ahead import read_ahead
from fade.data.dataset import Dataset
from fade.files import Read, content_hash, read_json, write_json
from fade.judges import Judge, right
from fade.tensors import read_tensors, write_tensors

CHUNK = 128  # images in memory at a time


class RealImages:
    """The test images under these judges and backbones, at a side of `size` pixels each time."""

    def __init__(
        self, dataset: Dataset, judges: dict[str, Judge], backbones: Mapping[str, Backbone], cache: Path
    ) -> None:
        self.dataset, self.judges, self.backbones, self.cache = dataset, judges, backbones, cache
        self._stamps: dict[int, str] = {}  # size -> fingerprint of the images, for which every file is asked

    def known(self, size: int) -> bool:
        """Whether the cache says how often the judges are right."""
        return all(self._accuracy_file(judge, size).is_file() for judge in self.judges.values())

    def accuracies(self, size: int) -> dict[str, float]:
        """How often each judge is right (mean average precision where multilabel)."""
        files = {domain: self._accuracy_file(judge, size) for domain, judge in self.judges.items()}
        return {domain: float(self._asked(file, read_json, size)["accuracy"]) for domain, file in files.items()}

    def features(self, name: str, size: int) -> tuple[Tensor, list[tuple[str, ...]]]:
        """Features (N, D) by one backbone, and the images' cells: the distances' reference."""
        found, _ = self._asked(self._features_file(name, size), read_tensors, size)
        return found["features"], [item.concepts for item in self.dataset.items("test")]

    def _stamp(self, size: int) -> str:
        if size not in self._stamps:
            self._stamps[size] = self.dataset.fingerprint(self.dataset.items("test"), size)
        return self._stamps[size]

    def _accuracy_file(self, judge: Judge, size: int) -> Path:
        return self.cache / f"judge-{content_hash([judge.identity, self._stamp(size)])}.json"

    def _features_file(self, name: str, size: int) -> Path:
        return self.cache / f"real-{content_hash([self._stamp(size), name, self.backbones[name].identity])}.safetensors"

    def _asked(self, file: Path, reader: Callable[[Path], Read], size: int) -> Read:
        """One of the files that `_ask` leaves; it is one process that asks."""
        under = self.cache / f"real-{self._stamp(size)}"
        return once(file, reader, partial(self._ask, size), "what the judges say of real images", under)

    def _ask(self, size: int) -> None:
        """One pass over the images: how often each judge is right, and the features."""
        items = self.dataset.items("test")
        table = self.dataset.shown if self.dataset.multilabel else self.dataset.labels
        hits, deep = dict.fromkeys(self.judges, 0.0), {name: list[Tensor]() for name in self.backbones}
        stage, done = Stage("real images", len(items), "while judging real images"), 0
        parts = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
        for part, pixels in zip(parts, read_ahead(self.dataset, parts, size), strict=True):
            looks = look(self.judges, pixels)
            for domain, judge in self.judges.items():
                hits[domain] += right(judge, looks[domain].probabilities, table(part, domain, judge.labels)) * len(part)
            for name, backbone in self.backbones.items():
                deep[name].append(backbone(pixels, looks))
            done += len(part)
            stage.done(done)
        for name, features in deep.items():
            write_tensors(self._features_file(name, size), {"features": torch.cat(features)})
        for domain, judge in self.judges.items():
            write_json(self._accuracy_file(judge, size), {"accuracy": hits[domain] / len(items), "images": len(items)})
