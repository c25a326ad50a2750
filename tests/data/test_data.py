"""Datasets: what they draw, read, split and refuse; and files that are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import OBJECTS, STYLES, TEMPLATE, small, write

from fade.data.canvas import paint
from fade.data.canvas.dataset import Canvas
from fade.data.folder import Folder
from fade.data.pairs import Pairs, Request
from fade.data.prompts import caption
from fade.errors import BadInput
from fade.files import atomic, write_json
from fade.models import Diffusion


def test_written_to_disk_it_is_a_grid_that_the_loader_reads(tmp_path: Path) -> None:
    write(tmp_path, per_cell=4, size=32)
    grid = Folder("canvas", str(tmp_path), {"style": None, "object": None}, TEMPLATE)
    assert grid.domains == {"style": sorted(STYLES), "object": sorted(OBJECTS)}
    found = [item for split in ("train", "judge", "test") for item in grid.items(split)]
    assert len(found) == 16 * 4 == len({item.path for item in found})
    item = next(i for i in grid.items("train") if i.concepts == ("neon_glow", "house_cat") and i.index == 0)
    drawn = np.asarray(paint("neon_glow", ["house_cat"], 0, 0, 32), float)
    assert item.path is not None and item.path.name == "1.jpg"
    assert np.abs(np.asarray(grid.image(item, 32), float) - drawn).mean() < 6  # JPEG


def test_captions() -> None:
    assert caption(TEMPLATE, {"style": "Van_Gogh", "object": "Dogs"}) == "A Dogs image in Van Gogh style."
    with pytest.raises(BadInput, match="fields"):
        small(template="A {object} image.")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError) as caught, atomic(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [path]


def test_other_captions_for_training_than_for_evaluation(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    request = Request.of(dataset, "neon_glow", "photo")
    other = Pairs(dataset, request, 16, 64, 2, tmp_path, template="{style}: a {object}")
    assert (
        other.captions("forget")[0] == ("neon glow: a house cat", "photo: a house cat")
        and dataset.caption(dataset.cells()[0])[0] == "A"
    )
    other.prepare(model)
    row = [tuple(cell.values()) for cell in dataset.cells()].index(("neon_glow", "house_cat"))
    assert (
        torch.equal(other.own.tokens[row], model.embed(["neon glow: a house cat"]).tokens[0])
        and other.concept[row].any()
    )
    with pytest.raises(BadInput, match="template"):
        Pairs(dataset, request, 16, 64, 2, tmp_path, template="a {object}")


def test_every_example_stands_under_its_own_captions(model: Diffusion, pairs: Pairs) -> None:
    """forget: the target's images, under their caption and the surrogate's; retain: under their own alone; anchor:
    images of the surrogate, under the target's caption and their own."""
    cells = pairs.dataset.cells()
    shown = {
        z.sum().item(): cells[row]
        for side in ("forget", "retain")
        for z, row in zip(pairs.latents[side], pairs.cells[side].tolist(), strict=True)
    }
    for batch in (pairs.draw(torch.Generator().manual_seed(0)), *pairs.sweep(3, torch.Generator().manual_seed(1))):
        for side, example in batch.items():
            for row, z in enumerate(example["latents"]):  # type: ignore[index]
                cell = shown[z.sum().item()]
                style = {"forget": "neon_glow", "anchor": "photo"}.get(side, cell["style"])
                assert cell["style"] == style and (side != "retain" or style != "neon_glow")
                said = [{**cell, "style": s} for s in {"retain": (style, style)}.get(side, ("neon_glow", "photo"))]
                for key, wanted in zip(("prompt", "surrogate"), said, strict=True):
                    assert torch.equal(example[key].tokens[row], pairs.own.tokens[cells.index(wanted)])  # type: ignore[index]


def test_several_requests_overwrite_each_its_own(dataset: Canvas, tmp_path: Path) -> None:
    asked = [Request.of(dataset, name, None) for name in ("neon_glow", "house_cat")]
    pairs = Pairs(dataset, asked, 16, 64, 2, tmp_path)
    both, cat = ({"style": style, "object": "house_cat"} for style in ("neon_glow", "photo"))
    assert pairs.surrogate(both) == pairs.surrogate(cat) == {"style": "photo", "object": "sea_fish"}
    assert pairs.side({"style": "neon_glow", "object": "city_bus"}) == pairs.side(cat) == "forget"


def test_latents_are_the_posteriors_mode_scaled(model: Diffusion) -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        mean, _ = model.vae.quant_conv(model.vae.encoder(2 * images - 1)).chunk(2, 1)
    torch.testing.assert_close(model.encode(images), 0.18215 * mean)
