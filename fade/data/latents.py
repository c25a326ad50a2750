"""Latents of images on disk: a file a cell, an entry an image, so that whoever asks for other images finds those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fade.claims import claimed
from fade.console import Stage
from fade.data.ahead import read_ahead
from fade.data.dataset import Dataset, Item
from fade.files import content_hash, unharmed
from fade.models import Diffusion
from fade.tensors import read_tensors, tensors_hash, write_tensors


@dataclass(frozen=True)
class _Entry:
    """Where the latents of an image lie: its cell's file, and its name there."""

    item: Item
    file: Path
    name: str


_Packs = dict[Path, dict[str, Tensor]]


class Latents:
    """Of the images of one dataset under one autoencoder, by the hashes of both. cache: a folder that runs share."""

    def __init__(self, model: Diffusion, dataset: Dataset, cache: Path) -> None:
        self.model, self.dataset, self.folder = model, dataset, cache / "latents"
        # In the last bits the latents of an image depend on how many pass with it, and on nothing else of these: always
        # as many pass, so that an image's are the same whatever was there before.
        self.at_once = max(1, min(8, 2**21 // model.size**2))
        self.identity = content_hash([tensors_hash(model.vae.state_dict()), dataset.name, model.size, self.at_once])

    def of(self, items: list[Item]) -> Tensor:
        """(N, C, h, w), on the model's device; what is not there is encoded first, by one process for all."""
        entries = [self._entry(item) for item in items]
        packs = self._read(entries)
        if _missing(entries, packs):
            with claimed(self.folder / self.identity, "latents of images"):
                packs = self._read(entries)  # another may have made them while this process waited
                self._encode(_missing(entries, packs), packs)
        return torch.stack([packs[entry.file][entry.name] for entry in entries]).to(self.model.device)

    def _entry(self, item: Item) -> _Entry:
        cell = content_hash([self.identity, item.concepts])
        return _Entry(item, self.folder / f"{cell}.safetensors", self.dataset.fingerprint([item], self.model.size))

    def _read(self, entries: list[_Entry]) -> _Packs:
        return {file: self._pack(file) for file in dict.fromkeys(entry.file for entry in entries)}

    def _pack(self, file: Path) -> dict[str, Tensor]:
        """A cell's; a harmed file is named, and goes."""
        found = unharmed(file, read_tensors)
        if found is None:
            file.unlink(missing_ok=True)
        return found[0] if found else {}

    def _encode(self, missing: list[_Entry], packs: _Packs) -> None:
        """Add what is missing; a cell's file is written when its last image is done."""
        last = {entry.file: entry for entry in missing}
        parts = [missing[i : i + self.at_once] for i in range(0, len(missing), self.at_once)]
        stage, done = Stage("latents", len(missing), "while encoding images,"), 0
        pixels = read_ahead(self.dataset, [[entry.item for entry in part] for part in parts], self.model.size)
        for part, images in zip(parts, pixels, strict=True):
            for entry, latents in zip(part, self._passed(images), strict=True):
                packs[entry.file][entry.name] = latents
                if last[entry.file] is entry:
                    write_tensors(entry.file, packs[entry.file])
            done += len(part)
            stage.done(done)

    def _passed(self, images: Tensor) -> Tensor:
        """Latents (N, C, h, w) of at most `at_once` images (N, 3, H, W) uint8, filled up with the last of them."""
        filled = images[torch.arange(self.at_once).clamp(max=len(images) - 1)]
        return self.model.encode(filled.float() / 255)[: len(images)].cpu()


def _missing(entries: list[_Entry], packs: _Packs) -> list[_Entry]:
    return [entry for entry in entries if entry.name not in packs[entry.file]]
