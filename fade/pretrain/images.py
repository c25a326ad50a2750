"""The images that a pretraining reads, and the sheets that it shows."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from fade.console import doing, ignore_stop
from fade.data.dataset import Dataset, Item
from fade.files import atomic, unharmed
from fade.tensors import read_tensors, write_tensors


def _chunk(dataset: Dataset, items: list[Item], size: int) -> Tensor:
    return dataset.images(items, size)


def _read(dataset: Dataset, chunks: list[list[Item]], size: int, workers: int) -> list[Tensor]:
    if workers == 1 or len(chunks) == 1:
        return [_chunk(dataset, chunk, size) for chunk in chunks]
    spawn = multiprocessing.get_context("spawn")  # a fork hangs after torch ran
    with ProcessPoolExecutor(workers, spawn, initializer=ignore_stop) as pool:
        return list(pool.map(_chunk, [dataset] * len(chunks), chunks, [size] * len(chunks)))


def load_images(dataset: Dataset, split: str, size: int, cache: Path, workers: int) -> tuple[Tensor, list[Item]]:
    """All images of a split as uint8 (N, 3, size, size), read once and kept in `cache`."""
    items = dataset.items(split)
    path = cache / f"{split}-{dataset.fingerprint(items, size)}.safetensors"
    found = unharmed(path, read_tensors)
    if found is None:
        doing(f"reading {len(items)} images of the {split} split at {size} px")
        chunks = [items[i : i + 256] for i in range(0, len(items), 256)]
        found = {"images": torch.cat(_read(dataset, chunks, size, workers))}, {}
        write_tensors(path, found[0])
    return found[0]["images"], items


def mirrored(images: Tensor) -> Tensor:
    """Each image (B, 3, H, W) as it is or mirrored, at random."""
    return torch.where(torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5, images.flip(-1), images)


def sheet(images: Tensor, path: Path, columns: int) -> None:
    """Write a contact sheet of images (N, 3, H, W) in [0, 1]."""
    grid = make_grid(images.clamp(0, 1), nrow=columns, padding=2, pad_value=1.0)
    with atomic(path) as temporary:
        Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy()).save(temporary, format="png")
