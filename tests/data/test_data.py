"""Datasets: what they draw, read, split and refuse; and files that are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from fade.data.folder import Folder
from fade.data.minicanvas import MiniCanvas, write
from fade.data.minicanvas.drawing import OBJECTS, STYLES, compose, paint
from fade.data.pairs import Pairs, Request
from fade.data.prompts import caption
from fade.errors import BadInput
from fade.files import atomic, write_json
from fade.models import Diffusion

TEMPLATE = "A {object} image in {style} style."


def test_a_drawing_is_a_function_of_its_arguments() -> None:
    for style in STYLES:
        first = paint(style, "cat", 3, 0, 64)
        assert first.tobytes() == paint(style, "cat", 3, 0, 64).tobytes()
        assert first.size == (64, 64) and first.mode == "RGB"
        assert first.tobytes() != paint(style, "cat", 4, 0, 64).tobytes()
        assert first.tobytes() != paint(style, "cat", 3, 1, 64).tobytes()


def test_styles_paint_the_same_scene_and_differ_in_colour_statistics() -> None:
    scene = compose("house", np.random.default_rng([0, list(OBJECTS).index("house"), 5]))
    again = compose("house", np.random.default_rng([0, list(OBJECTS).index("house"), 5]))
    assert all(np.array_equal(a.points, b.points) for a, b in zip(scene.parts, again.parts, strict=True))
    means = {}
    for style in STYLES:
        pixels = np.stack([np.asarray(paint(style, o, k, 0, 32), float) for o in OBJECTS for k in range(4)])
        edges = np.abs(np.diff(pixels, axis=2)).mean()
        means[style] = np.array([*pixels.mean((0, 1, 2)), pixels.std(), edges])
    for a in STYLES:
        for b in STYLES:
            assert a == b or np.abs(means[a] - means[b]).max() > 4


def test_splits_share_no_scene(dataset: MiniCanvas) -> None:
    items = {split: dataset.items(split) for split in ("train", "judge", "test")}
    assert all(len(found) == 72 * 3 for found in items.values())
    assert len({(i.concepts, i.index) for found in items.values() for i in found}) == 3 * 72 * 3
    assert dataset.images(items["train"][:2], 48).shape == (2, 3, 48, 48)


def test_written_to_disk_it_is_a_grid_that_the_loader_reads(tmp_path: Path) -> None:
    write(tmp_path / "canvas", per_cell=4, size=32, seed=0)
    grid = Folder("canvas", str(tmp_path / "canvas"), {"style": None, "object": None}, TEMPLATE)
    assert grid.domains == {"style": list(STYLES), "object": list(OBJECTS)}
    found = [item for split in ("train", "judge", "test") for item in grid.items(split)]
    assert len(found) == 72 * 4 == len({item.path for item in found})
    item = next(i for i in grid.items("train") if i.concepts == ("neon", "cat") and i.index == 0)
    drawn = np.asarray(paint("neon", "cat", 0, 0, 32), float)
    assert item.path is not None and item.path.name == "1.jpg"
    assert np.abs(np.asarray(grid.image(item, 32), float) - drawn).mean() < 6  # JPEG
    with pytest.raises(BadInput, match="exists already"):
        write(tmp_path / "canvas", per_cell=1, size=32, seed=0)


def test_captions() -> None:
    assert caption(TEMPLATE, {"style": "Van_Gogh", "object": "Dogs"}) == "A Dogs image in Van Gogh style."
    with pytest.raises(BadInput, match="fields"):
        MiniCanvas(template="A {object} image.", partials={}, train=1, judge=1, test=1)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError) as caught, atomic(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [path]


def test_other_captions_for_training_than_for_evaluation(dataset: MiniCanvas, model: Diffusion, tmp_path: Path) -> None:
    request = Request.of(dataset, "neon", "photo")
    other = Pairs(dataset, request, 16, 64, 2, tmp_path, template="{style}: a {object}")
    assert (
        other.captions("forget")[0] == ("neon: a bird", "photo: a bird")
        and dataset.caption(dataset.cells()[0])[0] == "A"
    )
    other.prepare(model)
    row = [tuple(cell.values()) for cell in dataset.cells()].index(("neon", "bird"))
    assert torch.equal(other.own.tokens[row], model.embed(["neon: a bird"]).tokens[0]) and other.concept[row].any()
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
                style = {"forget": "neon", "anchor": "photo"}.get(side, cell["style"])
                assert cell["style"] == style and (side != "retain" or style != "neon")
                said = [{**cell, "style": s} for s in {"retain": (style, style)}.get(side, ("neon", "photo"))]
                for key, wanted in zip(("prompt", "surrogate"), said, strict=True):
                    assert torch.equal(example[key].tokens[row], pairs.own.tokens[cells.index(wanted)])  # type: ignore[index]


def test_several_requests_overwrite_each_its_own(dataset: MiniCanvas, tmp_path: Path) -> None:
    pairs = Pairs(dataset, [Request.of(dataset, name, None) for name in ("neon", "cat")], 16, 64, 2, tmp_path)
    found = [tuple(pairs.surrogate({"style": s, "object": o}).values()) for s, o in (("neon", "cat"), ("photo", "cat"))]
    assert found == [("photo", "fish"), ("photo", "fish")]
    assert pairs.side({"style": "neon", "object": "dog"}) == pairs.side({"style": "photo", "object": "cat"}) == "forget"


def test_latents_are_the_posteriors_mode_scaled(model: Diffusion) -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        mean, _ = model.vae.quant_conv(model.vae.encoder(2 * images - 1)).chunk(2, 1)
    torch.testing.assert_close(model.encode(images), 0.18215 * mean)
