"""Latents on disk, image by image; images drawn by other processes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from grids import OBJECTS, STYLES
from harmed import flipped

from fade.data import ahead
from fade.data.ahead import read_ahead
from fade.data.canvas.dataset import Canvas
from fade.data.dataset import Item
from fade.data.latents import Latents
from fade.errors import BadInput
from fade.models import Diffusion


def test_an_image_is_encoded_once_and_to_the_same_bits_whoever_asked_first(
    dataset: Canvas, model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, passed = dataset.items("train")[:30], list[int]()
    whole = Latents(model, dataset, tmp_path / "a").of(items)
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda images: passed.append(len(images)) or encode(images))
    few = Latents(model, dataset, tmp_path / "b").of(items[4:9])
    more = Latents(model, dataset, tmp_path / "b").of(items)
    assert torch.equal(few, whole[4:9]) and torch.equal(more, whole)
    assert passed == [8] * 5  # five images in one pass, the other 25 in four, each filled up
    assert torch.equal(Latents(model, dataset, tmp_path / "b").of(items[::-1]), whole.flip(0)) and len(passed) == 5
    assert torch.allclose(whole, encode(dataset.images(items, model.size).float() / 255), atol=1e-4)


def test_other_images_and_another_autoencoder_are_encoded(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    first = Latents(model, dataset, tmp_path).of(dataset.items("train")[:2])
    assert not torch.equal(Latents(model, dataset, tmp_path).of(dataset.items("test")[:2]), first)
    with torch.no_grad():
        model.vae.quant_conv.weight.mul_(2)
    assert not torch.equal(Latents(model, dataset, tmp_path).of(dataset.items("train")[:2]), first)


def test_a_harmed_cell_is_named_and_encoded_again(
    dataset: Canvas, model: Diffusion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = dataset.items("train")[:12]  # two cells
    whole = Latents(model, dataset, tmp_path).of(items)
    file, other = sorted((tmp_path / "latents").iterdir())
    flipped(file, file.stat().st_size - 9)
    before = other.stat().st_mtime_ns
    assert torch.equal(Latents(model, dataset, tmp_path).of(items), whole)
    assert [file.name in record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == [True]
    assert other.stat().st_mtime_ns == before


class _Broken(Canvas):
    def image(self, item: Item, size: int):  # type: ignore[no-untyped-def]
        if item.concepts == ("neon_glow", "house_cat"):
            raise BadInput(f"neon_glow/house_cat, in process {os.getpid()}")
        return super().image(item, size)


def test_images_drawn_by_other_processes_are_the_same_and_their_bad_input_is_ours(
    dataset: Canvas, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = dataset.items("train")
    parts = [items[i : i + 30] for i in range(0, len(items), 30)]
    found = list(read_ahead(dataset, parts, 32, 2))
    assert torch.equal(torch.cat(found), dataset.images(items, 32)) and [len(part) for part in found][-1] == 6
    broken = _Broken(dataset.template, {}, {}, {}, 6, 3, 3, 0, styles=STYLES, objects=OBJECTS)
    with pytest.raises(BadInput, match="neon_glow/house_cat, in process") as error:
        list(read_ahead(broken, parts, 32, 2))
    assert str(os.getpid()) not in str(error.value)
    monkeypatch.setattr(ahead, "FEW", 1000)
    with pytest.raises(BadInput, match=f"in process {os.getpid()}"):
        list(read_ahead(broken, parts, 32, 2))
